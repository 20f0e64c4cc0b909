from __future__ import annotations

import io
import json
import os
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from handler import __version__
from handler.finished import Finished
from handler.settings import Settings
from handler.telemetry import build_telemetry
from tests.otlp import Collector, attributes


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("EMBED_", "OTEL_"))]:
        monkeypatch.delenv(name)


def traced(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], **fields: Any) -> Collector:
    """Trace one request of *fields* by the settings of *environment*, in which `URL` is the collector's."""
    with Collector() as collector:
        for name, value in environment.items():
            monkeypatch.setenv(name, value.replace("URL", collector.url))
        telemetry = build_telemetry(Settings(), model="m", in_flight=lambda: 0)
        (watch,) = telemetry.watches
        answered: dict[str, Any] = {"method": "POST", "route": "/v1/embeddings", "status": 200, "total_ms": 5}
        watch(Finished(**answered | fields))
        telemetry.close()
    return collector


@pytest.mark.parametrize(
    ("environment", "path", "service"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "URL/", "EMBED_SERVICE_NAME": "search"}, "/v1/traces", "search"),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "URL/own",
                "OTEL_SERVICE_NAME": "traced",
                "EMBED_SERVICE_NAME": "search",
            },
            "/own",
            "traced",
        ),
    ],
)
def test_where_traces_go_and_under_which_name(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], path: str, service: str
) -> None:
    """By OpenTelemetry's own variables, of which the one for traces alone counts more."""
    collector = traced(monkeypatch, environment)
    assert [sent_to for sent_to, _ in collector.received] == [path]
    (resource,) = collector.resources()
    named = attributes(resource.resource)
    assert (named["service.name"], named["service.version"]) == (service, __version__)


@pytest.mark.parametrize(("status", "code"), [(499, Status.STATUS_CODE_UNSET), (500, Status.STATUS_CODE_ERROR)])
def test_only_what_the_server_fails_at_is_an_error(monkeypatch: pytest.MonkeyPatch, status: int, code: int) -> None:
    """By the convention; nothing is said of inputs where none was embedded."""
    (span,) = traced(monkeypatch, {"OTEL_EXPORTER_OTLP_ENDPOINT": "URL"}, status=status, error="timeout").spans()
    assert span.status.code == code
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "http.response.status_code": status,
        "url.scheme": "http",
        "error.type": "timeout",
    }


def test_no_stage_ends_after_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Milliseconds are rounded, each by itself."""
    stages = {"tokenize": 2.0, "engine": 9.0}
    spans = traced(monkeypatch, {"OTEL_EXPORTER_OTLP_ENDPOINT": "URL"}, stages_ms=stages, inputs=1).spans()
    (whole,) = [span for span in spans if not span.parent_span_id]
    lengths = {span.name: (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6 for span in spans}
    assert lengths == pytest.approx({whole.name: 5, "tokenize": 2, "engine": 3})


def test_what_is_no_request_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start, what the worker has refused, and how it ended; nowhere where nothing is asked for."""
    for namespace in ("", "embed/test"):
        monkeypatch.setenv("EMBED_EMF_NAMESPACE", namespace)
        telemetry = build_telemetry(Settings(), model="m", in_flight=lambda: 0)
        stream = io.StringIO()
        if telemetry.emf is not None:
            monkeypatch.setattr(telemetry.emf, "_stream", stream)
        telemetry.started(2.5)
        telemetry.refused(status=431)
        telemetry.ended("EngineDeaths")
        assert len(telemetry.watches) == len(stream.getvalue().splitlines()) == bool(namespace)
    line = json.loads(stream.getvalue())
    told = {name: line[name] for name in ("StartSeconds", "Requests", "ClientErrors", "EngineDeaths", "StartFailures")}
    assert list(told.values()) == [[2.5], [1], [1], [1], [0]]
