"""The key figures as lines in CloudWatch's embedded metric format, where no scraper reaches.

CloudWatch Logs makes metrics of them by itself (docs.aws.amazon.com, "Specification: Embedded metric format"). The
figures of an interval are one line, so that the log's cost does not grow with the load, and an interval in which
nothing happened has none.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TextIO

import orjson

from handler.finished import Finished

_INTERVAL_S = 10.0
_SAMPLES = 99  # of the latency, of each interval; the format takes 100 values
_RETRY_LATER = (429, 503)
_NOTHING: Mapping[str, str] = {}
_COUNTS = ("Requests", "Errors", "Rejected", "ClientErrors", "Inputs", "Tokens", "StartFailures", "EngineDeaths")


class EmfWriter:
    """Counts, and writes what was counted every ten seconds and at the end; `watch` is told of each request."""

    def __init__(
        self,
        namespace: str,
        *,
        service: str,
        in_flight: Callable[[], int],
        stream: TextIO = sys.stdout,
        interval_s: float = _INTERVAL_S,
    ) -> None:
        """Begin to write to *stream*, from a thread of its own; *service* is the one dimension."""
        self._namespace = namespace
        self._service = service
        self._in_flight = in_flight
        self._stream = stream
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stopped = threading.Event()
        self._reset()
        threading.Thread(target=self._run, args=(interval_s,), name="emf", daemon=True).start()

    def _reset(self) -> None:
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._latencies_ms: list[float] = []
        self._embedded = 0
        self._start_s: float | None = None

    def watch(self, finished: Finished) -> Mapping[str, str]:
        """Count one request; its log line needs nothing of it."""
        with self._lock:
            self._count_answer(finished.status)
            self._counts["Inputs"] += finished.inputs
            self._counts["Tokens"] += finished.tokens
            if finished.inputs:
                self._sample(finished.total_ms)
        return _NOTHING

    def refused(self, *, status: int) -> None:
        """Count what was answered without becoming a request."""
        with self._lock:
            self._count_answer(status)

    def _count_answer(self, status: int) -> None:
        self._counts["Requests"] += 1
        if status in _RETRY_LATER:
            self._counts["Rejected"] += 1
        elif status >= 500:  # noqa: PLR2004 - the range of our own errors
            self._counts["Errors"] += 1
        elif status >= 400:  # noqa: PLR2004 - the range of clients' errors
            self._counts["ClientErrors"] += 1

    def _sample(self, milliseconds: float) -> None:
        """Keep a fair sample of the interval (Vitter's algorithm R), whatever the load."""
        self._embedded += 1
        if len(self._latencies_ms) < _SAMPLES:
            self._latencies_ms.append(milliseconds)
        elif (place := random.randrange(self._embedded)) < _SAMPLES:  # noqa: S311 - statistics, not secrets
            self._latencies_ms[place] = milliseconds

    def started(self, seconds: float) -> None:
        """Tell how long the start took."""
        with self._lock:
            self._start_s = seconds

    def count(self, what: str) -> None:
        """Add one to the metric of that name."""
        with self._lock:
            self._counts[what] += 1

    def close(self) -> None:
        """Write the rest."""
        self._stopped.set()
        self.write()

    def _run(self, interval_s: float) -> None:
        while not self._stopped.wait(interval_s):
            self.write()

    def write(self) -> None:
        """Write one line, unless nothing has happened since the last."""
        in_flight = self._in_flight()
        with self._lock:
            counts, latencies_ms, start_s = self._counts, self._latencies_ms, self._start_s
            self._reset()
        if not (any(counts.values()) or in_flight or start_s is not None):
            return
        line = self._line(counts, latencies_ms, start_s, in_flight=in_flight)
        with self._writing, suppress(OSError):  # the log's own lines are lost with it, and nothing else may be
            self._stream.write(line + "\n")
            self._stream.flush()

    def _line(
        self, counts: Mapping[str, int], latencies_ms: list[float], start_s: float | None, *, in_flight: int
    ) -> str:
        # Imports that only those pay who want the lines, and not before the first of them.
        from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import (  # noqa: PLC0415
            AmazonCloudWatchEMFProvider,
        )

        figures = AmazonCloudWatchEMFProvider(namespace=self._namespace, service=self._service)
        for name, count in counts.items():
            figures.add_metric(name, "Count", count)
        figures.add_metric("InFlight", "Count", in_flight)
        for milliseconds in latencies_ms:
            figures.add_metric("Latency", "Milliseconds", milliseconds)
        if start_s is not None:
            figures.add_metric("StartSeconds", "Seconds", start_s)
        figures.add_metadata("event", "metrics")  # as every line of the log has one
        content: Any = figures.serialize_metric_set()
        return orjson.dumps(content).decode()
