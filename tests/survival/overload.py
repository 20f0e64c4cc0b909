"""Three times as many requests as the server can answer, for minutes."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from tests.server import Server
from tests.survival.load import Outcome, Watch, closed_loop, open_loop, probe_health
from tests.survival.report import Row

TIMES = 3
GOODPUT = 0.9  # of the peak
HEALTH_S = 0.05
GROWTH = 1.05  # of memory, second to last quarter
_CAPACITY_S = 10.0
_LEVELS = (16, 32, 60)  # clients of the closed loop; four fewer than slots, so that none is refused


def overload(seconds: float) -> list[Row]:
    """Find the capacity, offer three times as much for *seconds*, and look at everything that may go wrong."""
    context = multiprocessing.get_context("spawn")
    with Server() as server, ProcessPoolExecutor(2, mp_context=context) as pool:
        server.wait_ready()
        pool.submit(closed_loop, server.port, clients=60, seconds=5, seed=0).result()
        loops = [
            pool.submit(closed_loop, server.port, clients=clients, seconds=_CAPACITY_S, seed=clients).result()
            for clients in _LEVELS
        ]
        peak = max(loop.goodput for loop in loops)
        with Watch(server.worker()) as watch:
            probe = pool.submit(probe_health, server.port, seconds=seconds)
            outcome = pool.submit(open_loop, server.port, rate=TIMES * peak, seconds=seconds, seed=7).result()
            answers, late = probe.result()
        lives = server.process.poll() is None and server.embed(input="still here").status_code == 200
    offered = f"overload: {outcome.sent / seconds:.0f} requests/s offered for {seconds:.0f} s, {peak:.0f}/s is the peak"
    return [
        Row(offered, _told(outcome), lives and set(outcome.statuses) <= {"200", "429", "503"}),
        _goodput(outcome, peak),
        _health(answers, late),
        _memory(watch),
    ]


def _told(outcome: Outcome) -> str:
    counts = ", ".join(f"{count} x {status}" for status, count in sorted(outcome.statuses.items()))
    return f"{counts}; every 429 and 503 with Retry-After; the client took {outcome.cpu_share:.2f} of a core"


def _goodput(outcome: Outcome, peak: float) -> Row:
    good = outcome.in_time / outcome.seconds
    seen = f"{good:.0f}/s answered 200, {good / peak:.0%} of the peak (at least {GOODPUT:.0%})"
    return Row("overload: goodput", seen, good >= GOODPUT * peak)


def _health(answers: list[float], late: list[float]) -> Row:
    p50, p99 = np.quantile(answers, [0.5, 0.99])
    seen = (
        f"{len(answers)} probes: p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms (at most {1000 * HEALTH_S:.0f}), "
        f"max {1000 * max(answers):.1f} ms; the probe itself was late by {1000 * np.quantile(late, 0.99):.1f} ms at p99"
    )
    return Row("overload: /health from another process", seen, bool(p99 <= HEALTH_S))


def _memory(watch: Watch) -> Row:
    early, last = watch.mean_rss_mb(0.25, 0.5), watch.mean_rss_mb(0.75, 1)
    top = max(sample.rss for sample in watch.samples) / 2**20
    seen = f"{early:.0f} MB in the second quarter, {last:.0f} MB in the last, {top:.0f} MB at most"
    return Row("overload: memory", seen, last <= GROWTH * early)
