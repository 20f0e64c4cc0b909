"""One OpenTelemetry trace per request: a server span that continues the client's, and a span for each stage.

Spans are made when the request is over, from times that are measured in any case. Attributes are those of
OpenTelemetry's conventions for HTTP and for generative AI; of the request's content there is none. Endpoint and name
are settings; all else (headers, sampler, resource attributes) the SDK reads by its own standard variables.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from handler import __version__
from handler.finished import Finished

_FLUSH_S = 1.5  # gunicorn's master waits two seconds longer than the drain


class Tracer:
    """Makes spans of finished requests and sends them in batches, from a thread of its own."""

    def __init__(self, endpoint: str, *, service: str, model: str) -> None:
        """Send to *endpoint*, the whole URL."""
        resource = Resource.create({"service.name": service, "service.version": __version__})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("handler", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._model = model

    def watch(self, finished: Finished) -> Mapping[str, str]:
        """Trace one request that is just over; its log line gets the trace's id."""
        end_ns = time.time_ns()
        begin_ns = end_ns - round(1e6 * finished.total_ms)
        span = self._tracer.start_span(
            f"{finished.method} {finished.route}",
            context=self._propagator.extract(finished.trace),
            kind=SpanKind.SERVER,
            attributes=self._attributes(finished),
            start_time=begin_ns,
        )
        if finished.status >= 500:  # noqa: PLR2004 - the convention: a client's error is none of the server's span
            span.set_status(Status(StatusCode.ERROR))
        self._add_stages(span, finished, begin_ns, end_ns)
        span.end(end_ns)
        return {"trace_id": format_trace_id(span.get_span_context().trace_id)}

    def _attributes(self, finished: Finished) -> dict[str, str | int]:
        attributes: dict[str, str | int] = {
            "http.request.method": finished.method,
            "http.route": finished.route,
            "http.response.status_code": finished.status,
            "url.scheme": "http",
        }
        if finished.error is not None:
            attributes["error.type"] = finished.error
        if finished.inputs:
            attributes |= {
                "gen_ai.operation.name": "embeddings",
                "gen_ai.response.model": self._model,
                "gen_ai.usage.input_tokens": finished.tokens,
                "embed.inputs": finished.inputs,
            }
        return attributes

    def _add_stages(self, parent: Span, finished: Finished, begin_ns: int, end_ns: int) -> None:
        """Lay the stages end to end; what lies between them, microseconds, is left over at the end."""
        context = set_span_in_context(parent)
        for stage, milliseconds in finished.stages_ms.items():
            until_ns = min(begin_ns + round(1e6 * milliseconds), end_ns)
            self._tracer.start_span(stage, context=context, start_time=begin_ns).end(until_ns)
            begin_ns = until_ns

    def close(self) -> None:
        """Send the rest, as far as the collector takes it in time."""
        flush = threading.Thread(target=self._provider.shutdown, name="traces-flush", daemon=True)
        flush.start()
        flush.join(_FLUSH_S)
