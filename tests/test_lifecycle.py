from __future__ import annotations

import threading
import time

import pytest

from handler.errors import EngineDeadError, NotReadyError, OverloadedError, ShuttingDownError
from handler.lifecycle import Lifecycle, State


def test_nothing_is_admitted_before_the_model_is_there() -> None:
    """And no slot stays taken by the refusal."""
    lifecycle: Lifecycle[str] = Lifecycle(slots=1)
    for _ in range(3):
        with pytest.raises(NotReadyError), lifecycle.admit():
            pass
    assert lifecycle.in_flight == 0


def test_slots_are_counted_and_given_back() -> None:
    """One more than the slots is refused at once; an error inside gives the slot back."""
    lifecycle: Lifecycle[str] = Lifecycle(slots=2)
    lifecycle.ready("model")
    with lifecycle.admit() as one, lifecycle.admit() as two:
        assert (one, two) == ("model", "model")
        with pytest.raises(OverloadedError), lifecycle.admit():
            pass
    with pytest.raises(ValueError, match="inside"), lifecycle.admit():
        raise ValueError("inside")
    assert lifecycle.in_flight == 0


def test_draining_finishes_what_was_admitted() -> None:
    """New requests are refused, old ones are waited for."""
    lifecycle: Lifecycle[str] = Lifecycle(slots=2)
    lifecycle.ready("model")
    with lifecycle.admit():
        lifecycle.drain()
        with pytest.raises(ShuttingDownError), lifecycle.admit():
            pass
        assert not lifecycle.wait_idle(0.01)
    assert lifecycle.wait_idle(0.01)


def test_a_process_that_closes_says_so_with_every_slot_taken() -> None:
    """No slot of it will be free again for whoever is refused."""
    lifecycle: Lifecycle[str] = Lifecycle(slots=1)
    lifecycle.ready("model")
    with lifecycle.admit():
        for close, expected in ((lifecycle.drain, ShuttingDownError), (lifecycle.fail, EngineDeadError)):
            close()
            with pytest.raises(expected), lifecycle.admit():
                pass


def test_a_model_that_comes_after_the_order_to_stop_does_not_open() -> None:
    """SIGTERM while loading stays SIGTERM."""
    lifecycle: Lifecycle[str] = Lifecycle(slots=1)
    lifecycle.drain()
    lifecycle.ready("model")
    assert lifecycle.state is State.DRAINING


def test_a_failed_process_says_so() -> None:
    """The engine is dead; a later try reaches another container."""
    lifecycle: Lifecycle[str] = Lifecycle(slots=1)
    lifecycle.ready("model")
    lifecycle.fail()
    with pytest.raises(EngineDeadError), lifecycle.admit():
        pass


def test_a_request_may_wait_for_the_cold_start() -> None:
    """It holds a slot meanwhile, and goes on as soon as the model is there."""
    lifecycle: Lifecycle[str] = Lifecycle(slots=1, cold_start_wait_s=10)
    threading.Timer(0.1, lifecycle.ready, args=("model",)).start()
    begin = time.monotonic()
    with lifecycle.admit() as model:
        assert model == "model"
        with pytest.raises(OverloadedError), lifecycle.admit():
            pass
    assert time.monotonic() - begin < 5


def test_the_wait_for_the_cold_start_ends() -> None:
    """Then the answer is the one without a wait."""
    with pytest.raises(NotReadyError), Lifecycle[str](slots=1, cold_start_wait_s=0.05).admit():
        pass


def test_phases_are_timed() -> None:
    """Seconds by name, and the total once ready."""
    lifecycle: Lifecycle[str] = Lifecycle(slots=1)
    with lifecycle.phase("imports"):
        time.sleep(0.02)
    lifecycle.ready("model")
    assert 0.02 <= lifecycle.phases["imports"] <= lifecycle.phases["total"]


def test_a_phase_may_go_on_later() -> None:
    """The seconds of its parts are added: weights from S3 come in two."""
    lifecycle: Lifecycle[str] = Lifecycle(slots=1)
    for _ in range(2):
        with lifecycle.phase("weights"):
            time.sleep(0.02)
    assert 0.04 <= lifecycle.phases["weights"] < 1
