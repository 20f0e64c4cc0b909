"""Servers that answer POST /v1/embeddings with the same model, started and measured as whole process families."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil

from tests.server import ROOT, free_port

TEXT = "Input text to be embedded"
TIMEOUT_S = 300.0
_POLL_S = 0.02
INFINITY = Path(sys.prefix, "infinity/bin/infinity_emb")  # `make bench` puts it there


@dataclass(frozen=True, slots=True)
class Contender:
    """How a server is started; `{port}` and `{cache}` are filled in."""

    name: str
    command: tuple[str, ...]
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name a folder for its caches; a compiler that is called with it would stumble over spaces."""
        return re.sub(r"\W+", "-", self.name)


def _vllm(model: Path, *flags: str) -> tuple[str, ...]:
    return (
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", "{port}", "--model", str(model)),
        *("--served-model-name", "model", "--runner", "pooling", "--dtype", "float32"),
        *("--kv-cache-memory-bytes", str(1 << 30), *flags),
    )


def contenders(model: Path) -> list[Contender]:
    """Name them; the first two are ours, and all compute *model* in float32 on every core."""
    ours = Contender(
        "serverless-embeddings",
        (sys.executable, "-m", "handler"),
        {"EMBED_MODEL_PATH": str(model), "EMBED_MODEL_NAME": "model", "EMBED_CACHE_DIR": "{cache}"},
    )
    compiled = Contender(f"{ours.name}, compiled", ours.command, {**ours.settings, "EMBED_ENFORCE_EAGER": "false"})
    caches = {"VLLM_CACHE_ROOT": "{cache}", "TORCHINDUCTOR_CACHE_DIR": "{cache}/inductor", "VLLM_NO_USAGE_STATS": "1"}
    cores = f"0-{(os.cpu_count() or 1) - 1}"
    default = Contender("vLLM, default flags", _vllm(model), caches)
    eager = Contender("vLLM, eager", _vllm(model, "--enforce-eager"), caches)
    # Its CPU backend keeps a core free for the HTTP server unless told to use all.
    flags = ("--disable-log-stats", "--disable-uvicorn-access-log", "--no-enable-prefix-caching")
    bound = {**caches, "VLLM_CPU_OMP_THREADS_BIND": cores}
    best = Contender("vLLM, best flags", _vllm(model, "--enforce-eager", *flags), bound)
    best_compiled = Contender("vLLM, best flags, compiled", _vllm(model, *flags), bound)
    plain = Contender(
        "sentence-transformers + FastAPI",
        (sys.executable, "-m", "uvicorn", "tests.bench.plain_server:app", "--port", "{port}", "--no-access-log"),
        {"PLAIN_MODEL": str(model)},
    )
    infinity = Contender(
        "Infinity",
        (
            *(str(INFINITY), "v2", "--model-id", str(model), "--served-model-name", "model", "--port", "{port}"),
            *("--url-prefix", "/v1", "--device", "cpu", "--dtype", "float32", "--no-bettertransformer"),
        ),
        {"HF_HOME": "{cache}", "DO_NOT_TRACK": "1", "INFINITY_LOG_LEVEL": "error"},
    )
    return [ours, compiled, default, eager, best, best_compiled, plain, *([infinity] if INFINITY.exists() else [])]


def absent() -> dict[str, str]:
    """Say why a contender is not there."""
    return {} if INFINITY.exists() else {"Infinity": "its packages could not be installed"}


class Running:
    """A started contender; leaving the context kills all of its processes."""

    def __init__(self, contender: Contender, cache: Path) -> None:
        """Start it; *cache* is its own folder for caches."""
        self.contender = contender
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        fill = {"port": str(self.port), "cache": str(cache)}
        settings = {name: value.format(**fill) for name, value in contender.settings.items()}
        self._begin = time.monotonic()
        self._process = subprocess.Popen(
            [part.format(**fill) for part in contender.command],
            cwd=ROOT,
            env={**kept, "PORT": str(self.port), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", **settings},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        """Hand out the started server."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the family."""
        family = self._family()
        for member in family:
            member.kill()
        psutil.wait_procs(family, timeout=10)
        self._process.wait()

    def _family(self) -> list[psutil.Process]:
        if self._process.poll() is not None:
            return []
        parent = psutil.Process(self._process.pid)
        return [*parent.children(recursive=True), parent]

    def embed(self, texts: list[str]) -> list[list[float]]:
        """Embed *texts*."""
        answer = httpx.post(f"{self.url}/v1/embeddings", json={"model": "model", "input": texts}, timeout=120)
        answer.raise_for_status()
        return [item["embedding"] for item in answer.json()["data"]]

    def finish_leftovers(self) -> None:
        """Wait until the server has embedded once more, behind whatever a load has left in it.

        Raises:
            httpx.HTTPStatusError: it answers with another error than 429, or with that for too long.
        """
        end = time.monotonic() + TIMEOUT_S
        while True:
            try:
                self.embed([TEXT])
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.TOO_MANY_REQUESTS or time.monotonic() > end:
                    raise
                time.sleep(_POLL_S)
            else:
                return

    def first_embedding(self) -> tuple[float, list[float]]:
        """Wait for the first embedding; return the seconds from the process' start, and the vector.

        Raises:
            TimeoutError: there was none.
        """
        while time.monotonic() - self._begin < TIMEOUT_S and self._process.poll() is None:
            try:
                vector = self.embed([TEXT])[0]
            except httpx.HTTPError:
                time.sleep(_POLL_S)
                continue
            return time.monotonic() - self._begin, vector
        raise TimeoutError(self.contender.name)

    def pss_mb(self) -> float:
        """Return the memory of all processes; what they share counts once."""
        return sum(process.memory_full_info().pss for process in self._family()) / 1e6

    def cpu_s(self) -> float:
        """Return the CPU seconds that all processes have used so far."""
        times = [process.cpu_times() for process in self._family()]
        return sum(each.user + each.system for each in times)
