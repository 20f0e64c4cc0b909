"""Traces and CloudWatch lines of the real server, and that they cost nothing where they are off."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.forked import ForkedServer
from tests.otlp import Collector, attributes
from tests.server import ROOT, Server
from tests.test_emf import faults

MARK = "unmistakable-marker-7531"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
METHOD = "MARKER-7531"  # gunicorn takes capitals only
STAGES = ["parse", "tokenize", "queue", "engine", "encode"]


@pytest.fixture(scope="module")
def stopped() -> Iterator[tuple[Collector, Server]]:
    """A server that has answered, refused and stopped, and what its collector got until then."""
    with Collector() as collector:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "EMBED_SERVICE_NAME": "search"}
        with ForkedServer(EMBED_API_KEYS=f"key-{MARK}", EMBED_EMF_NAMESPACE="embed/test", **settings) as server:
            server.wait_ready()
            ask(server)
            server.terminate()
            assert server.wait_exit() == 0
            yield collector, server


def ask(server: Server) -> None:
    """One good request in the client's trace, one bad, one that finds nothing, and a probe."""
    headers = {"Authorization": f"Bearer key-{MARK}", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    headers["tracestate"] = f"{MARK} is no member"
    body = {"input": [f"{MARK} one", MARK], "user": MARK}
    assert httpx.post(f"{server.url}/v1/embeddings", json=body, headers=headers, timeout=60).status_code == 200
    assert httpx.post(f"{server.url}/v1/embeddings", json={"input": {MARK: 1}}, headers=headers).status_code == 400
    assert httpx.request(METHOD, f"{server.url}/{MARK}?{MARK}").status_code == 404
    assert server.status("/health") == 200


def span(collector: Collector, **wanted: Any) -> Any:
    """The one server span with these attributes, underscores for dots."""
    expected = {name.replace("__", "."): value for name, value in wanted.items()}
    (found,) = [each for each in collector.spans() if expected.items() <= attributes(each).items()]
    return found


def test_the_clients_trace_goes_on(stopped: tuple[Collector, Server]) -> None:
    """One server span below the client's, by OpenTelemetry's conventions, with model, inputs and tokens."""
    collector, server = stopped
    served = span(collector, http__response__status_code=200)
    assert (served.trace_id.hex(), served.parent_span_id.hex()) == (TRACE, PARENT)
    assert served.kind == Span.SPAN_KIND_SERVER
    assert served.name == "POST /v1/embeddings"
    (line,) = [line for line in server.events("request") if line["status"] == 200 and line["route"] == "/v1/embeddings"]
    assert line["trace_id"] == TRACE
    assert attributes(served) == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "gen_ai.operation.name": "embeddings",
        "gen_ai.response.model": "all-MiniLM-L6-v2",
        "gen_ai.usage.input_tokens": line["tokens"],
        "embed.inputs": 2,
    }
    assert all(attributes(resource.resource)["service.name"] == "search" for resource in collector.resources())
    assert {path for path, _ in collector.received} == {"/v1/traces"}


def test_stages_are_children_within_their_request(stopped: tuple[Collector, Server]) -> None:
    """One after the other, as long as the log says."""
    collector, server = stopped
    served = span(collector, http__response__status_code=200)
    children = sorted(
        (each for each in collector.spans() if each.parent_span_id == served.span_id),
        key=lambda child: (child.start_time_unix_nano, STAGES.index(child.name)),
    )
    assert [child.name for child in children] == STAGES
    (line,) = [line for line in server.events("request") if line.get("trace_id") == TRACE and line["status"] == 200]
    at = served.start_time_unix_nano
    for child in children:
        assert child.trace_id.hex() == TRACE
        assert child.start_time_unix_nano == at
        at = child.end_time_unix_nano
        assert (at - child.start_time_unix_nano) / 1e6 == pytest.approx(line["stages_ms"][child.name], abs=0.002)
    assert at <= served.end_time_unix_nano


def test_a_bad_request_is_marked(stopped: tuple[Collector, Server]) -> None:
    """With its status and code; by the convention a client's error is no failure of the server's span."""
    refused = span(stopped[0], http__response__status_code=400)
    assert attributes(refused)["error.type"] == "invalid_request_error"
    assert refused.status.code == Status.STATUS_CODE_UNSET
    unknown = span(stopped[0], http__response__status_code=404)
    assert (unknown.name, attributes(unknown)["http.request.method"]) == ("_OTHER unknown", "_OTHER")


def test_nothing_of_a_request_leaves(stopped: tuple[Collector, Server]) -> None:
    """Neither text nor key, path, method or user, in no byte of what was sent; and probes are not traced."""
    collector, server = stopped
    assert collector.received
    assert all(mark.encode() not in body for _, body in collector.received for mark in (MARK, METHOD))
    assert len([each for each in collector.spans() if each.kind == Span.SPAN_KIND_SERVER]) == 3
    assert all(MARK not in json.dumps(line) for line in server.events("metrics"))
    assert MARK not in server.log()
    assert METHOD not in server.log()


def test_the_rest_is_written_when_the_server_stops(stopped: tuple[Collector, Server]) -> None:
    """All requests are in the CloudWatch lines, which follow the specification."""
    _, server = stopped
    lines = server.events("metrics")
    assert [fault for line in lines for fault in faults(line)] == []
    sums = {name: sum(line[name][0] for line in lines) for name in ("Requests", "ClientErrors", "Inputs", "Errors")}
    assert sums == {"Requests": 3, "ClientErrors": 2, "Inputs": 2, "Errors": 0}
    assert [line["StartSeconds"][0] for line in lines if "StartSeconds" in line] == [
        server.events("ready")[0]["start_s"]
    ]
    assert {line["service"] for line in lines} == {"search"}


def test_a_start_that_fails_is_told(tmp_path: Any) -> None:
    """In the last line before the process ends."""
    with Server(EMBED_MODEL_PATH=str(tmp_path), EMBED_EMF_NAMESPACE="embed/test") as server:
        assert server.wait_exit(60) == 3
        assert [line["StartFailures"] for line in server.events("metrics")] == [[1]]


def test_a_collector_that_does_not_answer_holds_nothing_up() -> None:
    """Requests are answered and the server stops in time."""
    with ForkedServer(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") as server:
        server.wait_ready()
        assert server.embed(input="a").status_code == 200
        server.terminate()
        assert server.wait_exit() == 0


def test_off_costs_nothing() -> None:
    """Without the settings this server's own modules import none of the libraries; vLLM imports some itself."""
    script = (
        "import sys; from handler import app, cold_start, telemetry, wsgi; from handler.settings import Settings;"
        "built = telemetry.build_telemetry(Settings(), model='m', in_flight=lambda: 0);"
        "heavy = ('opentelemetry', 'aws_lambda_powertools', 'handler.traces', 'handler.emf');"
        "print(built.watches, [name for name in sys.modules if name.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "() []"
