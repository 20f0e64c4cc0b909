"""Cold starts: seconds from process start to the first correct embedding, and where they go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

from tests.bench.contenders import Contender, Running
from tests.server import ROOT

_FLOOR = (
    "import vllm.engine.arg_utils, vllm.v1.engine.core, vllm.v1.executor; from pathlib import Path; "
    "[p.read_bytes() for p in Path({model!r}).rglob('*.safetensors')]"
)


def warm(contender: Contender, cache: Path, reference: list[float]) -> tuple[float, dict[str, float]]:
    """Start with *cache* as an earlier start has left it; return seconds and, for ours, the phases."""
    with Running(contender, cache) as server:
        seconds, vector = server.first_embedding()
        _check(vector, reference, contender.name)
        phases = httpx.get(f"{server.url}/health").json().get("phases_s", {}) if contender.name.startswith("s") else {}
        return seconds, phases


def fresh(contender: Contender, reference: list[float]) -> float:
    """Start with an empty cache folder, as a new container has it."""
    with tempfile.TemporaryDirectory() as cache, Running(contender, Path(cache)) as server:
        seconds, vector = server.first_embedding()
        _check(vector, reference, contender.name)
        return seconds


def as_shipped(contender: Contender, baked: Path, reference: list[float]) -> float:
    """Start ours with an empty cache folder and the caches that the image brings."""
    settings = {**contender.settings, "EMBED_BAKED_CACHE_DIR": str(baked)}
    return fresh(Contender(contender.name, contender.command, settings), reference)


def bake(folder: Path) -> Path:
    """Make the caches that the image brings, with the script that its build runs."""
    script = ROOT / "infra/image/bake_model_info.py"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, str(script), str(folder)], check=True, env=environment, capture_output=True)
    return folder


def floor_s(model: Path) -> float:
    """Time a Python that imports what we import of vLLM and reads the weights: nothing that embeds can be faster."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = {**kept, "VLLM_CONFIGURE_LOGGING": "0", "HF_HUB_OFFLINE": "1"}
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", _FLOOR.format(model=str(model))], check=True, env=environment, cwd=ROOT)
    return time.monotonic() - begin


def container_s(reference: list[float]) -> float | None:
    """Start the built image, where `make image-check` has left one and we may; None otherwise."""
    if os.geteuid() != 0 or shutil.which("crun") is None or not (ROOT / ".image/image.json").exists():
        return None
    command = [str(ROOT / "tests/image/isolated.sh"), sys.executable, "-m", "tests.bench.image_start"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    told = json.loads(done.stdout.splitlines()[-1])
    _check(told["vector"], reference, "image")
    seconds: float = told["seconds"]
    return seconds


def _check(vector: list[float], reference: list[float], name: str) -> None:
    cosine = float(np.dot(vector, reference) / np.linalg.norm(vector) / np.linalg.norm(reference))
    assert cosine >= 0.999, f"{name} embeds something else: cosine {cosine}"
