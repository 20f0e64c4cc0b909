"""Throughput and latency of one started server under every load, its memory, and its readiness under load."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
import numpy as np

from tests.bench.contenders import Contender, Running
from tests.bench.wrk import Load, drive

ONE = ((1, 16),)
LOADS = [
    *(Load(f"1 text, {connections} connections", connections, ONE) for connections in (1, 8, 32, 64)),
    Load("32 texts", 4, ((32, 16),)),
    Load("32 texts, float", 4, ((32, 16),), "float"),
    Load("256 texts", 2, ((256, 16),), longer=2),
    Load("32 texts of 64 tokens", 4, ((32, 64),)),
    Load("32 texts of 256 tokens", 4, ((32, 256),), longer=4),
    Load("mixed", 16, (*ONE * 7, (8, 64), (8, 64), (32, 128)), longer=4),
]
TINY_LOADS = [Load("1 text, 32 connections", 32, ONE), Load("32 texts", 4, ((32, 16),))]
_PROBES = 200


def measure(
    contender: Contender, cache: Path, loads: list[Load], *, seconds: float, round_number: int, reference: list[float]
) -> dict[str, dict[str, float]]:
    """Start *contender*, warm it up, and drive it with each of *loads*; name of the figure -> its values.

    Raises:
        AssertionError: it embeds something else than *reference*, or has answered with errors.
    """
    figures: dict[str, dict[str, float]] = {}
    with Running(contender, cache) as server:
        _, vector = server.first_embedding()
        cosine = float(np.dot(vector, reference) / np.linalg.norm(vector) / np.linalg.norm(reference))
        assert cosine >= 0.999, f"{contender.name} embeds something else: cosine {cosine}"
        drive(server.url, loads[0], seconds=2, seed=round_number * 100)
        for number, load in enumerate(loads, 1):
            server.finish_leftovers()  # wrk leaves requests behind when its time is up
            time.sleep(1)
            before = server.cpu_s()
            duration = seconds * load.longer
            result = drive(server.url, load, seconds=duration, seed=round_number * 100 + number)
            assert result.errors == 0, f"{contender.name}, {load.name}: {result.errors} errors"
            figures[load.name] = {
                "texts_per_s": result.texts_per_s,
                "p50_ms": result.p50_ms,
                "p99_ms": result.p99_ms,
                "cpu_us_per_text": 1e6 * (server.cpu_s() - before) / max(1.0, result.texts_per_s * duration),
                "driver_cpu": result.driver_cpu,
            }
        figures["memory"] = {"pss_mb": server.pss_mb()}
        if contender.name.startswith("serverless"):
            figures["ready"] = {"p99_ms": _ready_p99_ms(server.url, seed=round_number)}
    return figures


def _ready_p99_ms(url: str, *, seed: int) -> float:
    """Ask /ready over one connection while 64 others embed."""
    time.sleep(1)
    load = threading.Thread(target=drive, args=(url, Load("full", 64, ONE)), kwargs={"seconds": 6, "seed": 7000 + seed})
    load.start()
    time.sleep(1)
    taken = []
    with httpx.Client(base_url=url) as client:
        for _ in range(_PROBES):
            begin = time.perf_counter()
            assert client.get("/ready").status_code == httpx.codes.OK
            taken.append(time.perf_counter() - begin)
            time.sleep(0.02)
    load.join()
    return 1000 * sorted(taken)[round(0.99 * _PROBES) - 1]
