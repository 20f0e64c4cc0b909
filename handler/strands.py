"""Requests that share one thread: while one waits for the engine, the others go on.

With a thread for each, thirty fight for the interpreter when a batch is finished, and the engine, which lets go of it
in every operation, waits behind them each time. Strands are greenlets of the main loop's thread: one after the other
they run until they wait, so that HTTP is one thread and the engine another. Code that waits by a `Signal` is the same
in a strand and in a thread of its own.
"""

from __future__ import annotations

import math
import os
import select
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")

_TURN_S = 0.01  # so long strands go on before the loop looks at other connections: a health probe may be among them
_LOOK_S = 0.05  # how exact the end of a wait is


class Signal:
    """Set once, by any thread; awaited by one strand or thread."""

    __slots__ = ("_event", "_strand", "is_set")

    def __init__(self) -> None:
        """Start unset."""
        self.is_set = False
        self._event: threading.Event | None = None
        self._strand: Strand | None = None

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set; False when the time is up first."""
        current = getcurrent()
        if isinstance(current, Strand):
            self._strand = current  # before the look: whoever sets it later sees who waits
            return self.is_set or current.hub.wait(self, current, timeout_s)
        self._event = threading.Event()
        return self.is_set or self._event.wait(timeout_s)

    def mark(self) -> Hub | None:
        """Set it; return the hub whose bell is to be rung for it, if any."""
        self.is_set = True
        if self._event is not None:
            self._event.set()
        if self._strand is None:
            return None
        self._strand.hub.woken.append(self)
        return self._strand.hub


def set_all(signals: Iterable[Signal]) -> None:
    """Set *signals* and wake whoever waits for them, the thread of strands once for all."""
    for hub in {hub for signal in signals if (hub := signal.mark()) is not None}:
        hub.ring()


def make_way() -> None:
    """Let others go on, connections that have sent something too; in a thread of its own there is no need."""
    current = getcurrent()
    if isinstance(current, Strand):
        current.hub.make_way(current)


def aside(run: Callable[[], T]) -> T:
    """Return what *run* returns, or raise what it raises, while others go on: it has a thread of its own."""
    if not isinstance(getcurrent(), Strand):
        return run()
    future: Future[T] = Future()
    done = Signal()
    future.add_done_callback(lambda _: set_all([done]))

    def work() -> None:
        try:
            future.set_result(run())
        except BaseException as exc:  # noqa: BLE001 - raised where it is waited for
            future.set_exception(exc)

    threading.Thread(target=work, name="aside", daemon=True).start()
    done.wait(threading.TIMEOUT_MAX)
    return future.result()


class Threads(ThreadPoolExecutor):
    """Threads of their own for what is no strand, begun when they are needed.

    Where the system lets there be no more, as in a container with a limit of its own, work waits for those there are.
    """

    def __init__(self, most: int) -> None:
        """Begin the first of at most so many."""
        super().__init__(most)
        self.submit(int)

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


class Lull:
    """Whether the loop has nothing to do but wait.

    When a batch is finished its clients send their next texts, one by one. An engine that took the first of them at
    once would compute them alone and meanwhile fight the loop for the interpreter, and for a core where there are few.
    """

    def __init__(self) -> None:
        """Start with nothing to do."""
        self._begun = threading.Event()
        self._begun.set()

    def begin(self) -> None:
        """Say that nothing comes for now; called by the loop."""
        if not self._begun.is_set():  # to look takes a tenth of the time of either
            self._begun.set()

    def end(self) -> None:
        """Say that more may come; called by the loop."""
        if self._begun.is_set():
            self._begun.clear()

    def wait(self, timeout_s: float) -> bool:
        """Wait for a lull, at most *timeout_s*; False if there is one already."""
        if self._begun.is_set():
            return False
        self._begun.wait(timeout_s)
        return True


class Poller(selectors.DefaultSelector):
    """The loop's selector, which tells when it has to wait."""

    def __init__(self, lull: Lull) -> None:
        """Tell *lull*."""
        super().__init__()
        self._lull = lull

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, after waiting if nothing is."""
        ready = super().select(0)
        if not ready:
            self._lull.begin()
            ready = super().select(timeout)
        self._lull.end()
        return ready


class Strand(greenlet):  # type: ignore[misc]  # greenlet has no types
    """One request that runs in the thread of its hub."""

    def __init__(self, run: Callable[[], None], hub: Hub) -> None:
        """Make it a child of *hub*'s loop, which goes on whenever it waits and when it ends."""
        super().__init__(run, hub.loop)
        self.hub = hub


class Hub:
    """Starts strands, and goes on with those that have waited long enough; lives in the thread that makes it."""

    def __init__(self, poller: selectors.BaseSelector) -> None:
        """Listen on *poller*, whose events are callbacks that take the file object."""
        self.loop = getcurrent()
        self.woken: deque[Signal] = deque()  # filled by any thread
        self._waiting: dict[Signal, tuple[Strand, float]] = {}  # -> who, until when
        self._looked = 0.0
        self._rung = False
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._bell_alone = select.poll()
        self._bell_alone.register(self._bell, select.POLLIN)
        poller.register(self._bell, selectors.EVENT_READ, self._on_bell)

    def start(self, run: Callable[[], None]) -> None:
        """Run *run* as a strand until it waits; called by the loop itself."""
        Strand(run, self).switch()

    def wait(self, signal: Signal, strand: Strand, timeout_s: float) -> bool:
        """Let others go on until *signal* is set; False when the time is up first. Called in *strand*."""
        self._waiting[signal] = (strand, time.monotonic() + timeout_s)
        woken: bool = self.loop.switch()
        return woken

    def make_way(self, strand: Strand) -> None:
        """Let others go on, then *strand*, which calls this."""
        signal = Signal()
        self._waiting[signal] = (strand, math.inf)
        self.woken.append(signal)
        self.ring()
        self.loop.switch()

    def ring(self) -> None:
        """Wake the loop; called by any thread."""
        if not self._rung:
            self._rung = True
            os.eventfd_write(self._bell, 1)

    def wait_bell(self, timeout_s: float) -> None:
        """Look at nothing else until the bell rings, at most *timeout_s*; go on with whom it rings for."""
        if self._bell_alone.poll(1000 * timeout_s):
            self._on_bell(self._bell)

    def sleep_s(self, longest_s: float) -> float:
        """How long the loop may sleep."""
        return min(longest_s, _LOOK_S) if self._waiting else longest_s

    def expire(self) -> None:
        """Go on with strands whose time is up."""
        now = time.monotonic()
        if self._waiting and now - self._looked >= _LOOK_S:
            self._looked = now
            for signal in [signal for signal, (_, end) in self._waiting.items() if end <= now]:
                self._go_on(signal, woken=signal.is_set)  # it may be set, and not its turn yet

    def _on_bell(self, bell: int) -> None:
        os.eventfd_read(bell)
        # After the reading, which would swallow another's ring, and before the look: whoever comes later rings again.
        self._rung = False
        end = time.monotonic() + _TURN_S
        while self.woken and time.monotonic() < end:
            self._go_on(self.woken.popleft(), woken=True)
        if self.woken:
            self.ring()

    def _go_on(self, signal: Signal, *, woken: bool) -> None:
        strand, _ = self._waiting.pop(signal, (None, 0.0))
        if strand is not None:  # else its time was up, or it saw the signal without waiting
            strand.switch(woken)
