"""Which texts the engine gets next, and whose they are; used by the engine's thread alone.

An engine takes texts in the order in which it gets them. So it gets no more than it can use at once, and what waits is
here, where a query can still overtake a bulk request.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from handler.strands import Signal

ENOUGH_TEXTS = 32  # in a batch: of more, its texts do not get cheaper


class Core(Protocol):
    """An engine core, such as `vllm_core` has: computes vectors of texts, a batch at a time; used by one thread."""

    dimensions: int
    max_model_len: int  # tokens
    dtype: str
    pooling: str
    batch_texts: int  # at most in what it runs at once
    batch_tokens: int
    splits_texts: bool  # between batches, so that one more than there is room for fills a batch

    def add(self, key: int, token_ids: list[int], priority: int) -> None:
        """Queue one text under *key*."""

    def abort(self, keys: list[int]) -> None:
        """Forget texts that are still queued or running."""

    def step(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Run one batch; return (key, raw vector) of each text that is finished."""


@dataclass(slots=True, eq=False)
class Job:
    """The texts of one request and where their vectors go."""

    token_ids: list[list[int]]
    priority: int
    submitted: float = field(default_factory=time.monotonic)
    started: float = 0.0  # when the engine got its first text
    vectors: NDArray[np.float32] | None = None  # (n, dim)
    waiting: int = 0  # texts without a vector
    fed: int = 0  # texts that the engine has got, the first ones
    first_key: int = 0
    abandoned: bool = False
    failed: bool = False
    done: Signal = field(default_factory=Signal)

    @property
    def unfed(self) -> int:
        """How many texts the engine has not got."""
        return len(self.token_ids) - self.fed

    @property
    def next_tokens(self) -> int:
        """How many tokens the next of those has."""
        return len(self.token_ids[self.fed])


class Feed:
    """The texts of all requests, from their coming to their vectors."""

    def __init__(self) -> None:
        """Have none."""
        self._queue: list[Job] = []  # with texts that the engine has not got, the oldest first
        self._running: dict[int, tuple[Job, int]] = {}  # key -> (job, row), of the texts that it has
        self._running_tokens = 0
        self._next_key = 0
        self._times_tokens = 1  # of a batch, that the engine can use at once, because some need not be computed
        self._overfull = False  # more tokens than a batch has room for, when the engine last got some

    @property
    def texts(self) -> int:
        """How many texts have no vector yet; may be read by any thread."""
        return len(self._running) + sum(job.unfed for job in self._queue)

    @property
    def jobs(self) -> set[Job]:
        """Every request that waits for a vector."""
        return {*self._queue, *(job for job, _ in self._running.values())}

    def add(self, job: Job, *, dimensions: int) -> None:
        """Take *job*, the newest."""
        job.waiting = len(job.token_ids)
        job.vectors = np.empty((len(job.token_ids), dimensions), dtype=np.float32)
        job.first_key = self._next_key
        self._next_key += len(job.token_ids)
        self._queue.append(job)

    def remove(self, job: Job, core: Core) -> None:
        """Take *job* out, its texts in the engine too."""
        self._queue = [other for other in self._queue if other is not job]
        keys = range(job.first_key, job.first_key + job.fed)
        left = [key for key in keys if self._forget(key) is not None]
        if left:
            core.abort(left)

    def fill(self, core: Core) -> None:
        """Give the engine its next batch.

        The oldest request brings as many texts as all others together, at most half of what there is room for, and
        those with the fewest texts left come next. So a query waits neither for all that a bulk request brings nor for
        a full batch of it, and no bulk request waits for ever. An engine that orders texts itself has room for all.
        """
        if not self._queue:
            return
        oldest, *others = self._queue
        full = core.batch_tokens * self._times_tokens
        room = full - self._running_tokens
        if not others or core.batch_texts == sys.maxsize:
            for job in self._queue:
                self._give(core, job, texts=core.batch_texts, tokens=full, over=core.splits_texts)
        elif room > 0:
            others.sort(key=lambda job: job.unfed)
            texts = (core.batch_texts - len(self._running) + 1) // 2
            texts = min(texts, max(ENOUGH_TEXTS, sum(job.unfed for job in others)))
            tokens = max((room + 1) // 2, oldest.next_tokens)
            self._give(core, oldest, texts=len(self._running) + texts, tokens=self._running_tokens + tokens)
            # Where one text of it has taken all the room, theirs come right behind.
            most = max(full, self._running_tokens + max(room // 2, others[0].next_tokens))
            for job in others:
                self._give(core, job, texts=core.batch_texts, tokens=most, over=core.splits_texts)
        self._overfull = core.splits_texts and self._running_tokens > full
        self._queue = [job for job in self._queue if job.unfed]

    def _give(self, core: Core, job: Job, *, texts: int, tokens: int, over: bool = False) -> None:
        """Give the engine texts of *job* until it has so many in all, or so many tokens; the last may go *over*."""
        while job.unfed and len(self._running) < texts:
            token_ids = job.token_ids[job.fed]
            if self._running and self._running_tokens + (0 if over else len(token_ids)) > tokens:
                return
            if not job.fed:
                job.started = time.monotonic()
            key = job.first_key + job.fed
            self._running[key] = (job, job.fed)
            self._running_tokens += len(token_ids)
            core.add(key, token_ids, job.priority)
            job.fed += 1

    def deliver(self, key: int, vector: NDArray[np.float32]) -> Job | None:
        """Put one vector into its place; return the job if nothing of it is left to do."""
        found = self._forget(key)
        if found is None:  # taken out while its batch was running
            return None
        job, row = found
        assert job.vectors is not None  # noqa: S101 - for mypy: `add` made them
        job.vectors[row] = vector
        job.waiting -= 1
        return None if job.waiting else job

    def learn(self, core: Core) -> None:
        """Give more tokens at once to an engine that has finished too many, less to one that has a whole batch left.

        A prefix cache may have most tokens of texts under one instruction, and those take no room in a batch.
        """
        if self._overfull and not self._running:
            self._times_tokens *= 2
        elif self._running_tokens > core.batch_tokens and self._times_tokens > 1:
            self._times_tokens //= 2
        self._overfull = False

    def _forget(self, key: int) -> tuple[Job, int] | None:
        """Return what was known of a text that is no longer the engine's."""
        found = self._running.pop(key, None)
        if found is not None:
            job, row = found
            self._running_tokens -= len(job.token_ids[row])
        return found
