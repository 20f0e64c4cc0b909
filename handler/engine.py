"""One thread that owns the engine; texts of concurrent requests share its batches.

The thread sees token ids and a place for the vectors, nothing of text, JSON or HTTP. It also builds the engine:
torch's OpenMP threads and vLLM's CPU binding belong to the thread that first computes.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handler.allocator import Trimmer
from handler.errors import DeadlineExceededError, EngineDeadError
from handler.feed import ENOUGH_TEXTS, Core, Feed, Job
from handler.strands import Lull, set_all

Vectors = NDArray[np.float32]  # (n, dim)

log = logging.getLogger(__name__)

_GATHER_S = 0.02  # the longest that a batch waits for the main loop, which may be busy with other things


@dataclass(frozen=True, slots=True)
class Embedded:
    """What the engine gives back."""

    vectors: Vectors  # (n, dim), raw: neither cut nor normalised
    queue_s: float  # until the engine took the texts
    engine_s: float  # from there to the last vector


class Engine:
    """A running engine thread."""

    def __init__(self, build: Callable[[], Core], *, on_death: Callable[[], None], lull: Lull | None = None) -> None:
        """Start the thread, which calls *build* itself.

        Args:
            build: makes the engine.
            on_death: called in the thread if the engine dies later.
            lull: the main loop's; None where nobody's work is waited for.
        """
        self._build = build
        self._on_death = on_death
        self._lull = lull or Lull()
        self._inbox: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._core: Core | None = None
        self._start_error: BaseException | None = None
        self._built = threading.Event()
        self._dead = False
        self._feed = Feed()
        # Plain numbers for the metrics: only the thread writes them, and a scrape may read them at any moment.
        self.finished_texts = 0
        self.died_of: BaseException | None = None
        self.steps_by_size = [0] * 32  # at i: steps that finished 2**(i - 1) to 2**i - 1 texts, at 0: none
        threading.Thread(target=self._run, name="engine", daemon=True).start()

    def wait_built(self) -> Core:
        """Wait for the engine and return it, to be described only; raise what building it raised."""
        self._built.wait()
        if self._start_error is not None:
            raise self._start_error
        assert self._core is not None  # noqa: S101 - for mypy: built without an error means there is a core
        return self._core

    def embed(self, token_ids: list[list[int]], *, deadline: float, priority: int = 0) -> Embedded:
        """Embed *token_ids* before *deadline* (monotonic seconds); called from any number of threads.

        Raises:
            DeadlineExceededError: too late; the texts are taken out of the engine.
            EngineDeadError: the engine died before the last vector.
        """
        job = Job(token_ids, priority)
        self._inbox.put(job)
        if self._dead:  # after the put: the dying thread empties the inbox once, whoever comes later answers itself
            raise EngineDeadError(_DEAD)
        if not job.done.wait(max(0.0, deadline - time.monotonic())):
            job.abandoned = True
            self._inbox.put(job)  # wakes the thread to take the texts out
            message = "the request took longer than it may; send fewer or shorter inputs"
            raise DeadlineExceededError(message)
        if job.failed or job.vectors is None:
            raise EngineDeadError(_DEAD)
        finished = time.monotonic()
        return Embedded(job.vectors, queue_s=job.started - job.submitted, engine_s=finished - job.started)

    @property
    def waiting_texts(self) -> int:
        """How many texts the thread has taken that have no vector yet, those of the running batch included."""
        return self._feed.texts

    def _run(self) -> None:
        try:
            self._core = self._build()
        except BaseException as exc:  # noqa: BLE001 - handed to the thread that waits for the start
            self._start_error = exc
            return
        finally:
            self._built.set()
        try:
            self._serve(self._core)
        except BaseException as exc:  # whatever vLLM and torch raise: nobody may be left waiting, the process must end
            self.died_of = exc
            log.exception("engine_died", extra={"texts": self.waiting_texts})
            self._fail_all()
            self._on_death()

    def _serve(self, core: Core) -> None:
        memory = Trimmer()
        while True:
            self._take(core)
            self._gather(core)
            self._feed.fill(core)
            finished = core.step()
            self.steps_by_size[len(finished).bit_length()] += 1
            self.finished_texts += len(finished)
            set_all([job.done for key, vector in finished if (job := self._feed.deliver(key, vector)) is not None])
            self._feed.learn(core)
            memory.look()  # between batches, when nothing of a batch is held

    def _take(self, core: Core) -> None:
        """Take every request that has come; block while there is nothing to do."""
        block = not self._feed.texts
        while True:
            try:
                job = self._inbox.get(block)
            except queue.Empty:
                return
            if not job.abandoned:
                self._feed.add(job, dimensions=core.dimensions)
            elif job.vectors is not None:  # else its time was up before this thread took it
                self._feed.remove(job, core)
            block = not self._feed.texts

    def _gather(self, core: Core) -> None:
        """Let a small batch grow while the main loop works: it is about to bring more."""
        if self._feed.texts < ENOUGH_TEXTS and self._lull.wait(_GATHER_S):
            self._take(core)

    def _fail_all(self) -> None:
        self._dead = True
        jobs = self._feed.jobs
        while True:
            try:
                jobs.add(self._inbox.get_nowait())
            except queue.Empty:
                break
        for job in jobs:
            job.failed = True
        set_all([job.done for job in jobs])


_DEAD = "the engine has stopped; the container is being replaced"
