from __future__ import annotations

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


def test_a_request_at_its_deadline_is_taken_out_of_the_engine() -> None:
    """The waiting thread leaves at once, its texts leave the engine, and the next request is not held up."""
    core = SumCore(batch_size=1)
    core.gate.clear()
    engine = engine_with(core)
    with pytest.raises(DeadlineExceededError):
        engine.embed([[1], [2], [3]], deadline=soon(0.1))
    core.gate.set()
    assert engine.embed([[7]], deadline=soon()).vectors.tolist() == [[1, 7]]
    assert core.aborted == [1, 2]  # the first was in the batch that ran
    assert core.waiting == {}


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


def test_a_dead_engine_answers_everybody_at_once() -> None:
    """Who waits and who comes later both get the error, and the owner is told."""
    core, died = SumCore(), threading.Event()
    core.gate.clear()
    engine = engine_with(core, died)
    with ThreadPoolExecutor(8) as clients:
        futures = [clients.submit(engine.embed, [[n]], deadline=soon()) for n in range(8)]
        time.sleep(0.1)
        core.error = RuntimeError("broken device")
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


def test_close_frees_the_core() -> None:
    """A stopped engine holds nothing and answers like a dead one."""
    core = SumCore()
    engine = engine_with(core)
    engine.close()
    assert core.closed
    with pytest.raises(EngineDeadError):
        engine.embed([[1]], deadline=soon())
