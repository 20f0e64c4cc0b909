"""Prometheus metrics; names and units by https://prometheus.io/docs/practices/naming/.

They count and time. Nothing of a client's request is in a label but the route's pattern and the status.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, *, slots: int, in_flight: Callable[[], int], is_ready: Callable[[], bool]) -> None:
        """Start at zero; *in_flight* and *is_ready* are asked at each scrape."""
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        self._requests = Counter("embed_requests", "Answered requests.", ["route", "status"], registry=registry)
        self._rejected = Counter("embed_rejected", "Requests answered with an error.", ["reason"], registry=registry)
        self._inputs = Counter("embed_inputs", "Inputs embedded.", registry=registry)
        self._tokens = Counter("embed_tokens", "Tokens that the engine computed for them.", registry=registry)
        self._request_seconds = Histogram(
            "embed_request_seconds",
            "Seconds from the whole request to its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "embed_stage_seconds", "Seconds in each stage of a request.", ["stage"], buckets=_SECONDS, registry=registry
        )
        # To look a series up costs more than to count in it.
        self._stage = cache(self._stage_seconds.labels)
        self._answers = cache(self._requests.labels)
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
        self._request_seconds.observe(seconds)
        if reason is not None:
            self._rejected.labels(reason).inc()

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
        self._model.info(dict(model))

    def exposition(self) -> bytes:
        """Write all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
