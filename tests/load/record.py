"""What happened in each second of a load test, kept in memory and as a line of JSON in a file."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median


@dataclass(slots=True)
class Second:
    """About one second; `duration_s` says how long it really was.

    Texts and requests of honest clients are counted as offered when they are sent, whatever becomes of them. Requests
    of bad clients are counted apart.
    """

    phase: str = ""
    duration_s: float = 0.0
    users: int = 0
    offered_texts: int = 0
    offered_requests: int = 0
    finished_requests: int = 0  # with whatever outcome
    answered_texts: int = 0
    answered_requests: int = 0
    refused: int = 0  # 429 that say when to try again
    unavailable: int = 0  # 503 that do
    waits_s: dict[str, int] = field(default_factory=dict)  # Retry-After -> how often
    retries: int = 0  # sent after such a wait; part of the offered
    retries_answered: int = 0
    bad: int = 0
    bad_as_expected: int = 0
    unexpected: dict[str, int] = field(default_factory=dict)  # what -> how often
    search_ms: list[int] = field(default_factory=list)
    batch_ms: list[int] = field(default_factory=list)
    cpu: float = 0.0  # share of one core that the load driver used


def outcome(status: int, *, retry_after: str, wanted: int, got: int) -> str:
    """Name what an honest request met: `answered`, `refused`, `unavailable`, or what should not have happened."""
    if status == 200:
        return "answered" if got == wanted else "200 without all of its embeddings"
    if status in (429, 503):
        if not retry_after.isdigit():
            return f"{status} without Retry-After"
        return "refused" if status == 429 else "unavailable"
    return str(status) if status else "no answer"


class Recorder:
    """Counts for the current second, and all seconds before it."""

    def __init__(self, path: Path) -> None:
        """Write finished seconds to *path*."""
        self.seconds: list[Second] = []
        self.now = Second()
        self._file = path.open("w")
        self._begin = time.perf_counter()
        self._cpu_s = time.process_time()

    def sent(self, texts: int, *, retry: bool) -> None:
        """Count a request as offered."""
        self.now.offered_texts += texts
        self.now.offered_requests += 1
        self.now.retries += retry

    def finished(self, what: str, texts: int, took_ms: int, *, retry: bool) -> None:
        """Count what became of a request."""
        self.now.finished_requests += 1
        if what == "answered":
            self.now.answered_texts += texts
            self.now.answered_requests += 1
            self.now.retries_answered += retry
            (self.now.search_ms if texts == 1 else self.now.batch_ms).append(took_ms)
        elif what == "refused":
            self.now.refused += 1
        elif what == "unavailable":
            self.now.unavailable += 1
        elif what != "cut":  # by the driver itself, when it has fewer users from now on
            self.surprise(what)

    def wait(self, retry_after: str) -> None:
        """Count a Retry-After."""
        self.now.waits_s[retry_after] = self.now.waits_s.get(retry_after, 0) + 1

    def misused(self, surprise: str | None) -> None:
        """Count a bad client's request, and how it was met if that was not as it should be."""
        self.now.bad += 1
        if surprise is None:
            self.now.bad_as_expected += 1
        else:
            self.surprise(f"bad client, {surprise}")

    def surprise(self, what: str) -> None:
        """Count what should not have happened."""
        self.now.unexpected[what] = self.now.unexpected.get(what, 0) + 1

    def close(self, phase: str, users: int) -> None:
        """End the second, in which *users* were there, and begin the next."""
        end, cpu_s = time.perf_counter(), time.process_time()
        second = self.now
        second.phase, second.users, second.duration_s = phase, users, end - self._begin
        second.cpu = (cpu_s - self._cpu_s) / second.duration_s
        self.seconds.append(second)
        self._file.write(json.dumps(dataclasses.asdict(second)) + "\n")
        self._file.flush()
        self.now, self._begin, self._cpu_s = Second(), end, cpu_s


def read(path: Path) -> list[Second]:
    """Return the seconds in a recorder's file."""
    return [Second(**json.loads(line)) for line in path.read_text().splitlines()]


@dataclass(frozen=True, slots=True)
class Figures:
    """One phase, without the seconds in which it settled."""

    phase: str
    users: int
    seconds: float
    offered: float  # texts/s
    answered: float  # texts/s
    answered_requests: int
    search_ms: list[int]
    batch_ms: list[int]
    refused: int
    unavailable: int
    cpu: float

    @property
    def typical_s(self) -> float:
        """Return the median of what answers took."""
        return median([*self.search_ms, *self.batch_ms] or [0]) / 1000


def since(seconds: list[Second], settle_s: float) -> list[Second]:
    """Leave out of *seconds* those that begin before *settle_s* of them have passed."""
    counted, elapsed = [], 0.0
    for second in seconds:
        if elapsed >= settle_s:
            counted.append(second)
        elapsed += second.duration_s
    return counted


def figures(seconds: list[Second], phase: str, *, settle_s: float) -> Figures:
    """Sum up the seconds of *phase* that lie *settle_s* or more after its beginning."""
    ours = [second for second in seconds if second.phase == phase]
    counted = since(ours, settle_s)
    total = sum(second.duration_s for second in counted)

    def per_second(count: float) -> float:
        return count / total if total else 0.0

    return Figures(
        phase=phase,
        users=max((second.users for second in ours), default=0),
        seconds=total,
        offered=per_second(sum(second.offered_texts for second in counted)),
        answered=per_second(sum(second.answered_texts for second in counted)),
        answered_requests=sum(second.answered_requests for second in counted),
        search_ms=sorted(took for second in counted for took in second.search_ms),
        batch_ms=sorted(took for second in counted for took in second.batch_ms),
        refused=sum(second.refused for second in counted),
        unavailable=sum(second.unavailable for second in counted),
        cpu=per_second(sum(second.cpu * second.duration_s for second in counted)),
    )


def tally(seconds: list[Second], name: str) -> Counter[str]:
    """Add up one of the dictionaries of all *seconds*."""
    total: Counter[str] = Counter()
    for second in seconds:
        total.update(getattr(second, name))
    return total
