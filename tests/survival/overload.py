"""Three times as many requests as the server can answer, for minutes."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import fmean

import httpx
import numpy as np

from tests.server import Server
from tests.survival.load import Watch, probe_health, visit_shapes
from tests.survival.offer import Outcome, closed_loop, open_loop
from tests.survival.report import Row

TIMES = 3
GROWTH = 0.05  # of memory, second to last quarter
_CAPACITY_S = 10.0
_LEVELS = (16, 32, 60)  # clients of the closed loop; four fewer than slots, so that none is refused
_SHARES = (0.6, 0.75, 0.9, 1.2)  # of what those get at most, offered at random times
_ELSEWHERE_TIMES = (1.5, 3, 4)  # the last brings more connections than the backlog holds, should they wait there


def overload(seconds: float, *, least: float, least_of_random: float, health_s: float) -> list[Row]:
    """Find the peak, offer three times as much for *seconds*, and look at everything that may go wrong.

    The peak is that of clients who wait for their answers: they all send when a batch is finished, and nothing comes
    while one runs. Of requests that come at random times, as those of the overload do, fewer are answered whatever is
    offered. At *least* that share of the former and *least_of_random* of the latter must still be answered, and
    /health within *health_s* at the 99th percentile.
    """
    context = multiprocessing.get_context("spawn")
    with Server() as server, ProcessPoolExecutor(2, mp_context=context) as pool:
        server.wait_ready()
        visit_shapes(server)

        def offer(rate: float, seconds: float = _CAPACITY_S, seed: int = 3) -> Outcome:
            return pool.submit(open_loop, server.port, rate=rate, seconds=seconds, seed=seed).result()

        def capacity(clients: int, seconds: float = _CAPACITY_S) -> float:
            return (
                pool.submit(closed_loop, server.port, clients=clients, seconds=seconds, seed=clients).result().goodput
            )

        capacity(60, 5)  # warms up
        peak = max(map(capacity, _LEVELS))
        at_random = max(offer(share * peak).goodput for share in _SHARES)
        with Watch(server.worker()) as watch:
            probe = pool.submit(probe_health, server.port, seconds=seconds)
            outcome = offer(TIMES * peak, seconds, seed=7)
            answers, late = probe.result()
        peak = max(peak, capacity(60))  # again, should the machine have had other things to do before
        survived = _survived(server, outcome)
    rate = outcome.sent / seconds
    offered = f"overload: {rate:.0f} requests/s offered for {seconds:.0f} s, {peak:.0f}/s is the peak without"
    return [
        Row(offered, _told(outcome), survived),
        _goodput("overload: goodput", outcome, peak, least),
        _goodput(
            "overload: goodput, to the most that is answered at random times", outcome, at_random, least_of_random
        ),
        _health(answers, late, health_s),
        _memory(watch),
    ]


def overload_elsewhere() -> list[Row]:
    """Offer several times the peak where the engine leaves the cores to the server.

    Requests come and go ten times as fast as with a model on these cores, as they do beside a GPU. That every one of
    them is answered is asked; how many with vectors is told.
    """
    context = multiprocessing.get_context("spawn")
    with Server(module="tests.survival.waiting_engine") as server, ProcessPoolExecutor(2, mp_context=context) as pool:
        server.wait_ready()
        closed = partial(closed_loop, server.port, clients=60, seed=60)
        pool.submit(closed, seconds=3).result()  # warms up
        peak = pool.submit(closed, seconds=_CAPACITY_S).result().goodput
        rows = []
        for times in _ELSEWHERE_TIMES:
            probe = pool.submit(probe_health, server.port, seconds=_CAPACITY_S)
            offer = partial(open_loop, server.port, rate=times * peak, seconds=_CAPACITY_S, seed=9)
            outcome = pool.submit(offer).result()
            health_ms = 1000 * np.quantile(probe.result()[0], 0.99)
            what = f"overload of an engine that takes no core: {outcome.sent / _CAPACITY_S:.0f} requests/s offered"
            share = f"{outcome.goodput:.0f}/s answered 200, {outcome.goodput / peak:.0%} of {peak:.0f}/s"
            seen = f"{_told(outcome)}; {share}; /health p99 {health_ms:.1f} ms"
            rows.append(Row(what, seen, _survived(server, outcome)))
    return rows


def _survived(server: Server, outcome: Outcome) -> bool:
    """Whether every request was answered as it may be in overload, and the server goes on."""
    lives = server.process.poll() is None and server.embed(input="still here").status_code == httpx.codes.OK
    return lives and set(outcome.statuses) <= {"200", "429", "503"}


def _told(outcome: Outcome) -> str:
    counts = ", ".join(f"{count} x {status}" for status, count in sorted(outcome.statuses.items()))
    return f"{counts}; every 429 and 503 with Retry-After; the client took {outcome.cpu_share:.2f} of a core"


def _goodput(what: str, outcome: Outcome, peak: float, least: float) -> Row:
    good = outcome.goodput
    seen = f"{good:.0f}/s answered 200, {good / peak:.0%} of {peak:.0f}/s (at least {least:.0%})"
    return Row(what, seen, good >= least * peak)


def _health(answers: list[float], late: list[float], most_s: float) -> Row:
    p50, p99 = np.quantile(answers, [0.5, 0.99])
    seen = (
        f"{len(answers)} probes: p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms (at most {1000 * most_s:.0f}), "
        f"max {1000 * max(answers):.1f} ms; the probe itself was late by {1000 * np.quantile(late, 0.99):.1f} ms at p99"
    )
    return Row("overload: /health from another process", seen, bool(p99 <= most_s))


def _memory(watch: Watch) -> Row:
    early, last = fmean(watch.rss_mb(0.25, 0.5)), fmean(watch.rss_mb(0.75, 1))
    tenths = ", ".join(f"{fmean(watch.rss_mb(tenth / 10, (tenth + 1) / 10)):.0f}" for tenth in range(10))
    seen = (
        f"{last / early - 1:+.1%} from the second quarter to the last (at most {GROWTH:+.0%}); MB by tenths: {tenths}"
    )
    return Row("overload: memory", seen, last <= (1 + GROWTH) * early)
