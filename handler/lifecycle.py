"""The life of the process: starting, ready, draining or failed; slots; the way to the loaded model.

The loaded model is reachable only through `admit()`, which never queues: a request gets a slot or an error at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Generic, TypeVar

from handler.errors import (
    EngineDeadError,
    NotReadyError,
    OverloadedError,
    ServiceError,
    ShuttingDownError,
    UnavailableError,
)

ModelT = TypeVar("ModelT")


class State(StrEnum):
    """Where the process stands."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Lifecycle(Generic[ModelT]):
    """State, slots and phase timings of one process; the lock lives here and nowhere else."""

    def __init__(self, *, slots: int, cold_start_wait_s: float = 0) -> None:
        """Start without a model; at most *slots* requests run at once."""
        self._slots = slots
        self._cold_start_wait_s = cold_start_wait_s
        self._changed = threading.Condition()
        self._state = State.STARTING
        self._model: ModelT | None = None
        self._in_flight = 0
        self._started = time.monotonic()
        self._phases: dict[str, float] = {}  # name -> seconds

    @property
    def state(self) -> State:
        """Where the process stands now."""
        return self._state

    @property
    def in_flight(self) -> int:
        """How many requests hold a slot."""
        return self._in_flight

    @property
    def phases(self) -> dict[str, float]:
        """Seconds that each finished phase of the start took, and `total` once ready."""
        return dict(self._phases)

    @property
    def model(self) -> ModelT | None:
        """The loaded model, to be described only; work goes through `admit()`."""
        return self._model

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one phase of the start; one that is entered again goes on."""
        begin = time.monotonic()
        yield
        self._phases[name] = round(self._phases.get(name, 0) + time.monotonic() - begin, 3)

    def ready(self, model: ModelT) -> None:
        """Open for requests; a drain that came first stays."""
        with self._changed:
            self._model = model
            self._phases["total"] = round(time.monotonic() - self._started, 3)
            if self._state is State.STARTING:
                self._state = State.READY
            self._changed.notify_all()

    def drain(self) -> None:
        """Admit nothing more; what was admitted goes on."""
        self._move(State.DRAINING)

    def fail(self) -> None:
        """Close for good: the engine is dead or never came to life."""
        self._move(State.FAILED)

    def _move(self, state: State) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def wait_started(self) -> None:
        """Wait until the start has come to an end, good or bad."""
        with self._changed:
            self._changed.wait_for(lambda: self._state is not State.STARTING)

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no request holds a slot; False when the time is up first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, timeout_s)

    def closed(self) -> UnavailableError | None:
        """Return what every request is refused with from now on, None while some may be admitted."""
        if self._state is State.DRAINING:
            return ShuttingDownError("the container is shutting down; try again")
        if self._state is State.FAILED:
            return EngineDeadError("the engine has stopped; the container is being replaced")
        return None

    def overload(self) -> ServiceError | None:
        """Return what a request would be refused with for want of a slot, None where one is free."""
        if self._in_flight < self._slots:
            return None
        return self.closed() or OverloadedError(f"all {self._slots} slots are taken; try again")

    @contextmanager
    def admit(self) -> Iterator[ModelT]:
        """Hold a slot and hand out the model.

        Raises:
            NotReadyError: still loading, and the wait allowed for that is over.
            ShuttingDownError: the process has been told to stop.
            EngineDeadError: the engine has died.
            OverloadedError: every slot is taken.
        """
        with self._changed:
            if (overload := self.overload()) is not None:
                raise overload
            self._in_flight += 1  # a request that waits for the cold start counts too
        try:
            yield self._await_model()
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def _await_model(self) -> ModelT:
        with self._changed:
            if self._state is State.STARTING:
                self._changed.wait_for(lambda: self._state is not State.STARTING, self._cold_start_wait_s)
            if self._state is State.READY and self._model is not None:
                return self._model
        raise self.closed() or NotReadyError("the model is still loading; try again")
