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
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from handler.allocator import Trimmer
from handler.errors import DeadlineExceededError, EngineDeadError
from handler.strands import Lull, Signal, set_all

Vectors = NDArray[np.float32]  # (n, dim)

log = logging.getLogger(__name__)

_GATHER_S = 0.02  # the longest that a batch waits for the main loop, which may be busy with other things
_ENOUGH_TEXTS = 32  # in a batch: of more, its texts do not get cheaper


class Core(Protocol):
    """What the thread needs of vLLM; see `vllm_core`."""

    dimensions: int
    max_model_len: int  # tokens
    dtype: str
    pooling: str
    batch_texts: int  # at most in what it runs at once
    batch_tokens: int

    def add(self, key: int, token_ids: list[int], priority: int) -> None:
        """Queue one text under *key*."""

    def abort(self, keys: list[int]) -> None:
        """Forget texts that are still queued or running."""

    def step(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Run one batch; return (key, raw vector) of each text that is finished."""

    def close(self) -> None:
        """Free what the engine holds."""


@dataclass(slots=True, eq=False)
class _Job:
    """The texts of one request and where their vectors go."""

    token_ids: list[list[int]]
    priority: int
    submitted: float = field(default_factory=time.monotonic)
    started: float = 0.0  # when the engine took it
    vectors: Vectors | None = None
    waiting: int = 0  # texts without a vector
    fed: int = 0  # texts that the engine has got, the first ones
    first_key: int = 0
    abandoned: bool = False

    @property
    def unfed(self) -> int:
        """How many texts the engine has not got."""
        return len(self.token_ids) - self.fed

    failed: bool = False
    done: Signal = field(default_factory=Signal)


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
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._core: Core | None = None
        self._start_error: BaseException | None = None
        self._built = threading.Event()
        self._dead = False
        self._queue: list[_Job] = []  # with texts that the engine has not got, the oldest first
        self._running: dict[int, tuple[_Job, int]] = {}  # key -> (job, row), of the texts that it has
        self._running_tokens = 0
        self._next_key = 0
        # Plain numbers for the metrics: only the thread writes them, and a scrape may read them at any moment.
        self.finished_texts = 0
        self.steps_by_size = [0] * 32  # at i: steps that finished 2**(i - 1) to 2**i - 1 texts, at 0: none
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

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
        job = _Job(token_ids, priority)
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
        return len(self._running) + sum(job.unfed for job in self._queue)

    def close(self) -> None:
        """Stop the thread and free the engine; what is still running is answered as by a dead engine."""
        self._inbox.put(None)
        self._thread.join(timeout=5)

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
        except Exception:  # whatever vLLM and torch raise: nobody may be left waiting, and the process must end
            log.exception("engine_died", extra={"texts": self.waiting_texts})
            self._fail_all()
            self._on_death()
        else:
            self._fail_all()
            self._core.close()

    def _serve(self, core: Core) -> None:
        memory = Trimmer()
        while self._take(core) and self._gather(core):
            self._feed(core)
            finished = core.step()
            self.steps_by_size[len(finished).bit_length()] += 1
            self.finished_texts += len(finished)
            set_all([job.done for key, vector in finished if (job := self._deliver(key, vector)) is not None])
            memory.look()  # between batches, when nothing of a batch is held

    def _take(self, core: Core) -> bool:
        """Move everything that waits into the engine; block while there is nothing to do. False: stop."""
        block = not (self._running or self._queue)
        while True:
            try:
                job = self._inbox.get(block)
            except queue.Empty:
                return True
            if job is None:
                return False
            if job.abandoned:
                self._abort(core, job)
            else:
                self._start(core, job)
            block = not (self._running or self._queue)

    def _gather(self, core: Core) -> bool:
        """Let a small batch grow while the main loop works: it is about to bring more. False: stop."""
        if self.waiting_texts >= _ENOUGH_TEXTS or not self._lull.wait(_GATHER_S):
            return True
        return self._take(core)

    def _start(self, core: Core, job: _Job) -> None:
        job.waiting = len(job.token_ids)
        job.vectors = np.empty((len(job.token_ids), core.dimensions), dtype=np.float32)
        job.first_key = self._next_key
        self._next_key += len(job.token_ids)
        self._queue.append(job)

    def _feed(self, core: Core) -> None:
        """Give the engine its next batch, for it takes texts in the order in which it gets them.

        The oldest request brings as many texts as all others together, at most half of a full batch, and those with the
        fewest texts left come next. So a query waits neither for all that a bulk request brings nor for a full batch of
        it, and no bulk request waits for ever.
        """
        if not self._queue:
            return
        oldest, *others = self._queue
        others.sort(key=lambda job: job.unfed)
        texts, tokens = core.batch_texts, core.batch_tokens
        if others:
            texts = min((texts + 1) // 2, max(_ENOUGH_TEXTS, sum(job.unfed for job in others)))
            tokens = (tokens + 1) // 2
        self._feed_from(oldest, core, texts=texts, tokens=tokens)
        for job in others:
            self._feed_from(job, core, texts=core.batch_texts, tokens=core.batch_tokens)
        self._queue = [job for job in self._queue if job.unfed]

    def _feed_from(self, job: _Job, core: Core, *, texts: int, tokens: int) -> None:
        """Give the engine texts of *job* until it has so many in all."""
        while job.unfed and len(self._running) < texts and self._running_tokens < tokens:
            if not job.fed:
                job.started = time.monotonic()
            token_ids = job.token_ids[job.fed]
            key = job.first_key + job.fed
            self._running[key] = (job, job.fed)
            self._running_tokens += len(token_ids)
            core.add(key, token_ids, job.priority)
            job.fed += 1

    def _abort(self, core: Core, job: _Job) -> None:
        if job.vectors is None:  # its time was up before the engine took it
            return
        self._queue = [other for other in self._queue if other is not job]
        keys = range(job.first_key, job.first_key + job.fed)
        left = [key for key in keys if self._forget(key) is not None]
        if left:
            core.abort(left)

    def _forget(self, key: int) -> tuple[_Job, int] | None:
        """Return what was known of a text that is no longer the engine's."""
        found = self._running.pop(key, None)
        if found is not None:
            job, row = found
            self._running_tokens -= len(job.token_ids[row])
        return found

    def _deliver(self, key: int, vector: NDArray[np.float32]) -> _Job | None:
        """Put one vector into its place; return the job if nothing of it is left to do."""
        found = self._forget(key)
        if found is None:  # taken out while its batch was running
            return None
        job, row = found
        assert job.vectors is not None  # noqa: S101 - for mypy: `_start` made them
        job.vectors[row] = vector
        job.waiting -= 1
        return None if job.waiting else job

    def _fail_all(self) -> None:
        self._dead = True
        jobs = {id(job): job for job in [*self._queue, *(job for job, _ in self._running.values())]}
        while True:
            try:
                job = self._inbox.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                jobs[id(job)] = job
        for job in jobs.values():
            job.failed = True
        set_all([job.done for job in jobs.values()])


_DEAD = "the engine has stopped; the container is being replaced"
