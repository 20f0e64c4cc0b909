"""Minutes of every kind of request, good, bad and broken off, with every vector compared to its own text's."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean

from tests.server import Server
from tests.survival.clients import Client, Wrong
from tests.survival.corpus import Corpus
from tests.survival.load import Sample, Watch, visit_shapes
from tests.survival.report import Row

_CLIENTS = 12
_BURST = 120  # clients at once in the beginning, so that the pool of threads is as large as it gets
FLAT = 0.05


def soak(seconds: float) -> list[Row]:
    """Run *seconds* of the mixed trace; the first fifth warms up."""
    with Server(EMBED_MAX_BODY_BYTES=str(8 << 20)) as server:
        server.wait_ready()
        visit_shapes(server)
        corpus = Corpus.embed(server)
        with ThreadPoolExecutor(_BURST) as burst:
            user = "u" * 20_000  # small requests need no thread
            list(burst.map(lambda _: server.embed(input=corpus.texts[:16], user=user).status_code, range(2 * _BURST)))
        worker = Watch(server.worker())
        clients = [Client(server.port, corpus, seed=seed) for seed in range(_CLIENTS)]
        end = time.monotonic() + seconds
        with worker as watch, ThreadPoolExecutor(_CLIENTS) as pool:
            list(pool.map(lambda client: client.run(until=end), clients))
        time.sleep(3)  # for the last broken connections to be closed
        left = worker.look()
        lives = server.embed(input="still here").status_code == 200
        failures = len(server.events("request_failed")) + len(server.events("connection_failed"))
    counts: Counter[str] = sum((client.counts for client in clients), Counter())
    wrong = [wrong for client in clients for wrong in client.wrong]
    return [_answers(counts, wrong, seconds, lives=lives and not failures), *_growth(watch, left)]


def _answers(counts: Counter[str], wrong: list[Wrong], seconds: float, *, lives: bool) -> Row:
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()) if kind != "vectors")
    seen = (
        f"{counts['vectors']} vectors compared, {sum(bad.kind == 'vector' for bad in wrong)} wrong; "
        f"{sum(bad.kind == 'answer' for bad in wrong)} answers lost, doubled or of a wrong status; {kinds}"
    )
    for bad in wrong[:5]:
        seen += f"; {bad.said}"
    return Row(f"soak: {seconds:.0f} s of the mixed trace, {_CLIENTS} clients", seen, lives and not wrong)


def _growth(watch: Watch, left: Sample) -> list[Row]:
    warm = watch.samples[: max(1, len(watch.samples) // 5)]
    # Between batches: within one, activations come and go, and 128 MB of freed memory are kept.
    early, last = watch.rss_mb(0.2, 0.4), watch.rss_mb(0.8, 1)
    change = min(last) / min(early) - 1
    threads = (max(sample.threads for sample in warm), max(sample.threads for sample in watch.samples), left.threads)
    descriptors = (max(sample.descriptors for sample in warm), left.descriptors)
    return [
        Row(
            "soak: memory",
            f"at least {min(early):.0f} MB after warming up, {min(last):.0f} MB at the end, {change:+.1%} "
            f"(within {FLAT:.0%}); mean {fmean(early):.0f} and {fmean(last):.0f} MB",
            abs(change) <= FLAT,
        ),
        Row(
            "soak: threads",
            f"at most {threads[0]} while warming up, {threads[1]} in all, {threads[2]} afterwards",
            threads[1] <= threads[0],
        ),
        Row(
            "soak: file descriptors",
            f"at most {descriptors[0]} while warming up, {descriptors[1]} afterwards",
            descriptors[1] <= descriptors[0],
        ),
    ]
