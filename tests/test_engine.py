from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from handler.engine import Engine
from handler.errors import DeadlineExceededError, EngineDeadError
from handler.strands import Lull
from tests.fakes import SumCore


def soon(seconds: float = 5) -> float:
    """Return a deadline in the near future."""
    return time.monotonic() + seconds


def engine_with(core: SumCore, died: threading.Event | None = None) -> Engine:
    """Start an engine on *core*."""
    engine = Engine(lambda: core, on_death=(died or threading.Event()).set)
    engine.wait_built()
    return engine


def test_rows_come_back_in_the_order_of_the_input() -> None:
    """A batch larger than one step is put together from several."""
    engine = engine_with(SumCore(batch_size=3))
    embedded = engine.embed([[1] * n for n in range(1, 11)], deadline=soon())
    assert embedded.vectors.tolist() == [[n, n] for n in range(1, 11)]
    assert embedded.vectors.dtype == np.float32


def test_concurrent_requests_share_batches() -> None:
    """Texts of different requests are computed in one step, and each request gets its own vectors."""
    core = SumCore(batch_size=64)
    core.gate.clear()
    engine = engine_with(core)
    with ThreadPoolExecutor(16) as clients:
        futures = [clients.submit(engine.embed, [[n, n]], deadline=soon()) for n in range(16)]
        time.sleep(0.2)
        core.gate.set()
        results = [future.result().vectors.tolist() for future in futures]
    assert results == [[[2, 2 * n]] for n in range(16)]
    assert max(map(len, core.batches)) > 1


def beside_a_working_loop(core: SumCore) -> tuple[Engine, Lull]:
    """Start an engine beside a main loop that is at work."""
    lull = Lull()
    engine = Engine(lambda: core, on_death=lambda: None, lull=lull)
    engine.wait_built()
    lull.end()
    return engine, lull


def test_a_small_batch_grows_while_the_main_loop_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that come one by one are computed together, once the loop has nothing more to do."""
    monkeypatch.setattr("handler.engine._GATHER_S", 60)
    core = SumCore(batch_size=64)
    engine, lull = beside_a_working_loop(core)
    with ThreadPoolExecutor(3) as clients:
        futures = [clients.submit(engine.embed, [[n]], deadline=soon()) for n in range(3)]
        time.sleep(0.3)
        assert core.batches == []
        lull.begin()
        assert [future.result().vectors.tolist() for future in futures] == [[[1, n]] for n in range(3)]
    assert [len(batch) for batch in core.batches] == [3]


def test_a_batch_of_enough_texts_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as large as it needs to be."""
    monkeypatch.setattr("handler.engine._GATHER_S", 60)
    core = SumCore(batch_size=64)
    engine, _ = beside_a_working_loop(core)
    assert len(engine.embed([[1]] * 32, deadline=soon()).vectors) == 32


def test_a_main_loop_that_never_rests_holds_nobody_up() -> None:
    """It may be busy with what has nothing to do with embeddings."""
    engine, _ = beside_a_working_loop(SumCore())
    assert engine.embed([[7]], deadline=soon(1)).vectors.tolist() == [[1, 7]]


@pytest.mark.parametrize(("room", "aborted"), [(1, []), (2, [1]), (3, [1, 2])])
def test_a_request_at_its_deadline_is_taken_out(room: int, aborted: list[int]) -> None:
    """The waiting thread leaves at once, nothing more of it is computed, and the next request is not held up."""
    core = SumCore(batch_size=1, room=room)
    core.gate.clear()
    engine = engine_with(core)
    with pytest.raises(DeadlineExceededError):
        engine.embed([[1], [2], [3]], deadline=soon(0.1))
    core.gate.set()
    assert engine.embed([[7]], deadline=soon()).vectors.tolist() == [[1, 7]]
    assert core.batches == [[0], [3]]  # the first text was in the batch that ran
    assert core.aborted == aborted
    assert core.waiting == {}
    assert engine.waiting_texts == 0


BULK = range(20)  # keys of the first request's texts


def beside_bulk(core: SumCore, *others: list[list[int]]) -> list[list[int]]:
    """Run a bulk request of 20 texts and, once its first batch runs, *others*; return the keys of each batch."""
    core.gate.clear()
    engine = engine_with(core)
    with ThreadPoolExecutor(1 + len(others)) as clients:
        futures = [clients.submit(engine.embed, [[1]] * len(BULK), deadline=soon())]
        time.sleep(0.1)  # so that it comes first
        for other in others:
            futures.append(clients.submit(engine.embed, other, deadline=soon()))
            time.sleep(0.05)
        core.gate.set()
        for future, texts in zip(futures, ([[1]] * len(BULK), *others), strict=True):
            assert future.result().vectors.tolist() == [[len(text), sum(text)] for text in texts]
    return core.batches


def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    """It is in the next batch, and the bulk request keeps half of that."""
    first, second, *rest = beside_bulk(SumCore(batch_size=4), [[5]])
    assert first == [0, 1, 2, 3]
    assert second == [4, 5, 20]
    assert [key for batch in rest for key in batch] == [*range(6, 20)]


def test_a_short_request_does_not_wait_for_a_full_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the bulk request adds to it is what a batch needs to be worth its while."""
    monkeypatch.setattr("handler.feed.ENOUGH_TEXTS", 3)
    assert beside_bulk(SumCore(batch_size=10), [[5]])[1] == [10, 11, 12, 20]
    assert beside_bulk(SumCore(batch_size=10), [[5]] * 4)[1] == [10, 11, 12, 13, 20, 21, 22, 23]


def test_the_oldest_request_has_half_of_each_batch() -> None:
    """However many shorter ones there are; among those the shortest come first."""
    batches = beside_bulk(SumCore(batch_size=4), [[2]] * 6, [[3]] * 2, [[4]] * 3)
    assert batches[1:4] == [[4, 5, 26, 27], [6, 7, 28, 29], [8, 9, 30, 20]]
    assert sum(map(len, batches)) == len(BULK) + 11


def test_a_batch_is_full_when_it_has_its_tokens() -> None:
    """Half of them for the oldest request, as of the texts."""
    core = SumCore(batch_size=10, room=100)
    core.batch_tokens = 11
    assert beside_bulk(core, [[5] * 3] * 2)[:3] == [[*range(10)], [*range(10, 16), 20], [*range(16, 20), 21]]


def test_an_engine_that_can_use_more_gets_more() -> None:
    """As one whose prefix cache has most tokens of each text; once it leaves a whole batch, it gets less again."""
    core = SumCore(batch_size=8, room=100, caches=True)
    core.batch_tokens = 2
    assert list(map(len, beside_bulk(core))) == [3, 5, 8, 4]
    core.batches.clear()
    engine = engine_with(core)
    assert len(engine.embed([[1]] * 40, deadline=soon()).vectors) == 40
    assert list(map(len, core.batches)) == [3, 5, 8, 8, 8, 8]


def test_an_engine_that_orders_texts_itself_gets_them_all() -> None:
    """As one that schedules by priority does."""
    core = SumCore(batch_size=4, room=sys.maxsize)
    core.batch_tokens = sys.maxsize
    assert beside_bulk(core, [[5]])[-1] == [20]


def test_a_deadline_that_passed_before_the_engine_took_the_request() -> None:
    """Nothing of another request is aborted for it."""
    core = SumCore()
    core.gate.clear()
    engine = engine_with(core)
    with ThreadPoolExecutor(1) as clients:
        first = clients.submit(engine.embed, [[5]], deadline=soon())
        time.sleep(0.1)
        with pytest.raises(DeadlineExceededError):
            engine.embed([[6]], deadline=soon(0.05))
        core.gate.set()
        assert first.result().vectors.tolist() == [[1, 5]]
    assert core.aborted == []


@pytest.mark.parametrize("error", [RuntimeError("broken device"), SystemExit(1)])
def test_a_dead_engine_answers_everybody_at_once(error: BaseException) -> None:
    """Who waits and who comes later both get the error, and the owner is told."""
    core, died = SumCore(), threading.Event()
    core.gate.clear()
    engine = engine_with(core, died)
    with ThreadPoolExecutor(8) as clients:
        futures = [clients.submit(engine.embed, [[n]], deadline=soon()) for n in range(8)]
        time.sleep(0.1)
        core.error = error
        core.gate.set()
        for future in futures:
            with pytest.raises(EngineDeadError):
                future.result()
    assert died.wait(2)
    with pytest.raises(EngineDeadError):
        engine.embed([[1]], deadline=soon())


def test_an_error_while_building_reaches_the_one_who_waits() -> None:
    """The start fails with the cause, not with a hang."""

    def build() -> SumCore:
        raise ValueError("no such architecture")

    with pytest.raises(ValueError, match="no such architecture"):
        Engine(build, on_death=lambda: None).wait_built()
