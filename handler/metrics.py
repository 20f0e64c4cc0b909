"""Prometheus metrics; names and units by https://prometheus.io/docs/practices/naming/.

They count and time. Nothing of a client's request is in a label but the route's pattern and the status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from handler.engine import Engine
from handler.errors import ServiceError
from handler.installation import builds

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
_BATCH_TEXTS = 12  # buckets of the texts of an engine step, up to 2**12 - 1


class Metrics:
    """The metrics of one process, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(
        self,
        *,
        slots: int,
        in_flight: Callable[[], int],
        is_ready: Callable[[], bool],
        engine: Callable[[], Engine | None] = lambda: None,
    ) -> None:
        """Start at zero; *in_flight*, *is_ready* and *engine* (None while there is none) are asked at each scrape."""
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        registry.register(_EngineCollector(engine))
        self._requests = Counter("embed_requests", "Answered requests.", ["route", "status"], registry=registry)
        self._rejected = Counter("embed_rejected", "Requests answered with an error.", ["reason"], registry=registry)
        self._inputs = Counter("embed_inputs", "Inputs embedded.", registry=registry)
        self._tokens = Counter("embed_tokens", "Tokens that the engine computed for them.", registry=registry)
        self._request_seconds = Histogram(
            "embed_request_seconds",
            "Seconds from the whole request to its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "embed_stage_seconds", "Seconds in each stage of a request.", ["stage"], buckets=_SECONDS, registry=registry
        )
        # To look a series up costs more than to count in it.
        self._stage = cache(self._stage_seconds.labels)
        self._answers = cache(self._requests.labels)
        self._reason = cache(self._rejected.labels)
        self._seconds = cache(self._request_seconds.labels)
        for reason in _reasons():  # a series that begins with its first error shows no increase for it
            self._reason(reason)
        self._phases = Gauge(
            "embed_start_phase_seconds", "Seconds of each phase of the start.", ["phase"], registry=registry
        )
        self._model = Info("embed_model", "The served model and the builds behind it.", registry=registry)
        Gauge("embed_ready", "1 when embeddings would succeed.", registry=registry).set_function(is_ready)
        Gauge("embed_slots", "Requests that may run at once.", registry=registry).set(slots)
        Gauge("embed_in_flight", "Requests that hold a slot.", registry=registry).set_function(in_flight)

    def answered(self, *, route: str, status: int, seconds: float, reason: str | None) -> None:
        """Count one answer; *reason* is the code of its error."""
        self._answers(route, str(status)).inc()
        self._seconds(route).observe(seconds)
        if reason is not None:
            self._reason(reason).inc()

    def refused(self, *, route: str, status: int, reason: str) -> None:
        """Count one answer to what never reached the application."""
        self._answers(route, str(status)).inc()
        self._reason(reason).inc()

    def embedded(self, *, inputs: int, tokens: int, stages_ms: Mapping[str, float]) -> None:
        """Count what one request embedded, and where its time went."""
        self._inputs.inc(inputs)
        self._tokens.inc(tokens)
        for stage, milliseconds in stages_ms.items():
            self._stage(stage).observe(milliseconds / 1000)

    def started(self, *, phases_s: Mapping[str, float], model: Mapping[str, str]) -> None:
        """Tell what the start took and what is served."""
        for phase, seconds in phases_s.items():
            self._phases.labels(phase).set(seconds)
        self._model.info({**builds(), **model})

    def exposition(self) -> bytes:
        """Write all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    """Reads the engine's own numbers when asked, so that the engine's thread pays nothing for a histogram."""

    def __init__(self, engine: Callable[[], Engine | None]) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        engine = self._engine()
        sizes = list(engine.steps_by_size) if engine is not None else [0] * (_BATCH_TEXTS + 1)
        below = list(accumulate(sizes))
        buckets = [(str(2.0**i - 1), float(count)) for i, count in enumerate(below[: _BATCH_TEXTS + 1])]
        yield HistogramMetricFamily(
            "embed_engine_batch_texts",
            "Texts that each step of the engine finished.",
            buckets=[*buckets, ("+Inf", float(below[-1]))],
            sum_value=engine.finished_texts if engine is not None else 0,
        )
        yield GaugeMetricFamily(
            "embed_engine_waiting_texts",
            "Texts in the engine that have no vector yet, those of the running batch included.",
            value=engine.waiting_texts if engine is not None else 0,
        )


def _reasons() -> set[str]:
    """Every reason that an error can have."""
    kinds: list[type[ServiceError]] = [ServiceError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.code or kind.type for kind in kinds}
