from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from handler import errors
from handler.lifecycle import Lifecycle
from handler.logs import RequestIdFilter
from handler.service import EmbeddingService, LoadedModel
from handler.tokenization import TextTokenizer
from tests.fake_app import build, loaded
from tests.fakes import VOCABULARY, ByteTokenizer, SumCore


def error(client: FlaskClient, **body: Any) -> tuple[int, dict[str, Any]]:
    """POST *body* and return status and error."""
    response = client.post("/v1/embeddings", json=body)
    assert response.json is not None
    return response.status_code, response.json["error"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings", "/invocations"])
def test_the_three_paths_are_one(path: str) -> None:
    """OpenAI's, the short one and SageMaker's."""
    response = build().post(path, json={"input": ["a", "bc"]})
    assert response.status_code == 200
    assert response.json is not None
    assert [row["embedding"] for row in response.json["data"]] == [[3, 103], [4, 206]]
    assert response.json["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_json_counts_whatever_the_content_type_says() -> None:
    """A body that parses is accepted."""
    assert build().post("/v1/embeddings", data=b'{"input":"a"}', content_type="text/plain").status_code == 200


def test_model_names() -> None:
    """The served name, an alias, null or nothing; anything else is 404 unless the check is off."""
    client = build()
    for name in ("sum", "alias", None):
        assert client.post("/v1/embeddings", json={"input": "a", "model": name}).status_code == 200
    status, told = error(client, input="a", model="other")
    assert (status, told["code"], told["param"]) == (404, "model_not_found", "model")
    assert client.get("/v1/models/other").json == {"error": told}
    gateway = build(rules={"check_model_name": False})
    assert gateway.post("/v1/embeddings", json={"input": "a", "model": "other"}).status_code == 200


def test_limits_of_the_operator() -> None:
    """Number of inputs, token ids, and the switch that closes the route."""
    assert error(build(rules={"max_inputs": 2}), input=["a", "b", "c"])[1]["param"] == "input"
    status, told = error(build(rules={"allow_token_ids": False}), input=[1, 2])
    assert status == 400
    assert "check_embedding_ctx_length=False" in told["message"]
    assert error(build(rules={"supported": False}), input="a")[0] == 400


def test_keys_guard_embeddings_only() -> None:
    """Health and models stay open."""
    client = build(keys=("one", "two"))
    response = client.post("/v1/embeddings", json={"input": "a"})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    for key in ("one", "two"):
        assert (
            client.post("/v1/embeddings", json={"input": "a"}, headers={"Authorization": f"Bearer {key}"}).status_code
            == 200
        )
    for path in ("/health", "/ready", "/ping", "/v1/models", "/v1/models/sum"):
        assert client.get(path).status_code == 200


def test_errors_of_the_framework_have_the_envelope() -> None:
    """Unknown path, wrong method, a body over the limit."""
    client = build()
    for response, status in [
        (client.get("/v1/nothing"), 404),
        (client.get("/v1/embeddings"), 405),
        (client.get("/v1/models/none"), 404),
        (client.post("/v1/embeddings", data=b"x" * 5000), 413),
    ]:
        assert response.status_code == status
        assert response.json is not None
        assert set(response.json["error"]) == {"message", "type", "param", "code"}


def test_what_breaks_on_our_side_tells_nothing_and_logs_no_text(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the answer nor the log quotes the client."""

    class Broken(TextTokenizer):
        def encode_texts(self, texts: Any, rule: Any, **_: Any) -> Any:
            raise RuntimeError(texts[0])

    lifecycle: Lifecycle[LoadedModel] = Lifecycle(slots=2)
    broken = loaded(SumCore())
    object.__setattr__(broken, "tokenizer", Broken(ByteTokenizer(), vocab_size=VOCABULARY))
    lifecycle.ready(broken)
    client = build(ready=False, lifecycle=lifecycle)
    caplog.handler.addFilter(RequestIdFilter())
    with caplog.at_level(logging.DEBUG):
        response = client.post("/v1/embeddings", json={"input": "my secret text"})
    assert response.json is not None
    told = response.json["error"]
    assert (response.status_code, told["type"], told["code"]) == (500, "server_error", None)
    lines = {record.getMessage(): vars(record) for record in caplog.records}
    assert lines["request_failed"]["request_id"] == response.headers["x-request-id"]
    logged = str(lines)
    assert "RuntimeError" in logged
    assert "secret" not in logged + str(told)
    assert lifecycle.in_flight == 0


def test_the_deadline_counts_between_calls_of_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instruction of megabytes before thousands of inputs would be tokenized for hours."""
    monkeypatch.setattr("handler.tokenization._CALL_CHARS", 1)
    client = build(rules={"request_timeout_s": 0})
    status, told = error(client, input=["a", "b"])
    assert (status, told["code"]) == (504, "timeout")
    assert "could not be tokenized" in told["message"]


def test_waiting_for_the_cold_start_is_not_counted() -> None:
    """Whoever has waited longer than a request may take gets the vector all the same."""
    lifecycle: Lifecycle[LoadedModel] = Lifecycle(slots=1, cold_start_wait_s=10)
    threading.Timer(1.2, lifecycle.ready, args=(loaded(SumCore()),)).start()
    client = build(rules={"request_timeout_s": 1}, ready=False, lifecycle=lifecycle)
    assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200


def test_a_vector_that_is_not_finite_is_a_500() -> None:
    """Never `null` numbers."""

    class NanCore(SumCore):
        def step(self) -> Any:
            return [(key, vector * np.nan) for key, vector in super().step()]

    assert error(build(NanCore()), input="a")[0] == 500


@pytest.mark.parametrize(
    ("problem", "status", "kind_and_code", "retry_after"),
    [
        (errors.InvalidRequestError, 400, ("invalid_request_error", None), None),
        (errors.MissingCapabilityError, 400, ("invalid_request_error", None), None),
        (errors.ContextLengthError, 400, ("invalid_request_error", "context_length_exceeded"), None),
        (errors.AuthenticationError, 401, ("invalid_request_error", "invalid_api_key"), None),
        (errors.ModelNotFoundError, 404, ("invalid_request_error", "model_not_found"), None),
        (errors.RouteNotFoundError, 404, ("invalid_request_error", None), None),
        (errors.MethodNotAllowedError, 405, ("invalid_request_error", None), None),
        (errors.SlowRequestError, 408, ("invalid_request_error", "timeout"), None),
        (errors.RequestTooLargeError, 413, ("invalid_request_error", "request_too_large"), None),
        (errors.HeadTooLargeError, 431, ("invalid_request_error", "request_too_large"), None),
        (errors.OverloadedError, 429, ("rate_limit_error", "overloaded"), "1"),
        (errors.InternalError, 500, ("server_error", None), None),
        (errors.NotReadyError, 503, ("server_error", "not_ready"), "5"),
        (errors.ShuttingDownError, 503, ("server_error", "shutting_down"), "1"),
        (errors.EngineDeadError, 503, ("server_error", "engine_dead"), "5"),
        (errors.DeadlineExceededError, 504, ("server_error", "timeout"), None),
    ],
)
def test_service_errors_become_answers(
    problem: type[errors.ServiceError],
    status: int,
    kind_and_code: tuple[str, str | None],
    retry_after: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Status, type, code and Retry-After come from the class, the rest is the instance's."""

    def fail(*_: Any, **__: Any) -> Any:
        raise problem("told", param="field")

    monkeypatch.setattr(EmbeddingService, "embed", fail)
    response = build().post("/v1/embeddings", json={"input": "a"})
    kind, code = kind_and_code
    told = {"message": "told", "type": kind, "param": "field", "code": code}
    assert (response.status_code, response.json) == (status, {"error": told})
    assert response.headers.get("Retry-After") == retry_after


def test_probes_follow_the_state() -> None:
    """`/ping` speaks RunPod: 204 initializing, 200 healthy, anything else unhealthy."""
    lifecycle: Lifecycle[LoadedModel] = Lifecycle(slots=2)
    client = build(ready=False, lifecycle=lifecycle)

    def statuses() -> list[int]:
        return [client.get(path).status_code for path in ("/health", "/ready", "/ping")]

    assert statuses() == [200, 503, 204]
    status, told = error(client, input="a")
    assert (status, told["code"]) == (503, "not_ready")
    lifecycle.ready(loaded(SumCore()))
    assert statuses() == [200, 200, 200]
    lifecycle.drain()
    assert statuses() == [200, 503, 503]
    lifecycle.fail()
    assert statuses() == [503, 503, 503]


def test_probes_are_logged_for_those_who_look_closely(caplog: pytest.LogCaptureFixture) -> None:
    """They come every few seconds, and say nothing that the platform does not see."""
    client = build()
    with caplog.at_level(logging.DEBUG):
        for path in ("/health", "/ready", "/ping", "/metrics", "/v1/models"):
            client.get(path)
    lines = [(record.levelname, vars(record)) for record in caplog.records if record.message == "request"]
    assert [(level, line["method"], line["route"]) for level, line in lines] == [
        *(("DEBUG", "GET", path) for path in ("/health", "/ready", "/ping", "/metrics")),
        ("INFO", "GET", "/v1/models"),
    ]


@pytest.mark.parametrize("ready", [True, False])
def test_health_and_models_tell_what_is_served(ready: bool) -> None:  # noqa: FBT001
    """What only the loaded model knows is null before that."""
    client = build(ready=ready)
    found = {"dimensions": 2, "max_tokens": 16} if ready else {"dimensions": None, "max_tokens": None}
    only = {"architecture": "SumModel", "pooling": "MEAN", "normalizes": False, "dtype": "float32"}
    only |= {"matryoshka": "none", "prompts": ["query"]}
    health = client.get("/health").json
    assert health is not None
    assert health["model"] == {"name": "sum", **found, **(only if ready else dict.fromkeys(only))}
    assert client.get("/v1/models").json == {
        "object": "list",
        "data": [
            {
                "id": name,
                "object": "model",
                "created": 1,
                "owned_by": "serverless-embeddings",
                "root": "sum",
                "max_model_len": found["max_tokens"],
                "dimensions": found["dimensions"],
                "model_version": "1",
                "description": "adds",
                "tags": ["x"],
                "maximum_completion_tokens": None,
            }
            for name in ("sum", "alias")
        ],
    }


@pytest.mark.parametrize("sent", ["abc", "x" * 128, "a b/c"])
def test_the_clients_request_id_comes_back(sent: str) -> None:
    """So that both sides can find the same line."""
    assert build().get("/health", headers={"X-Request-Id": sent}).headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 129, "ä", "\x7f"])
def test_another_request_id_is_replaced(sent: str) -> None:
    """It goes into a header and a log line."""
    assert build().get("/health", headers={"X-Request-Id": sent}).headers["x-request-id"].startswith("req-")


def test_stage_times_are_told() -> None:
    """Server-Timing has the four stages in milliseconds."""
    timing = build().post("/v1/embeddings", json={"input": "a"}).headers["Server-Timing"]
    assert [part.split(";")[0] for part in timing.split(", ")] == ["queue", "tokenize", "engine", "encode"]


def test_browsers_are_let_in_only_where_the_operator_says_so() -> None:
    """No CORS header by default."""
    origin = {"Origin": "https://a.example"}
    assert "Access-Control-Allow-Origin" not in build().get("/health", headers=origin).headers
    allowed = build(cors=("https://a.example",)).get("/health", headers=origin)
    assert allowed.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert "metadata" in allowed.headers["Access-Control-Expose-Headers"]  # without it `bytes` cannot be split


def test_long_inputs_are_cut_into_chunks_where_the_operator_says_so() -> None:
    """The chunks' mean, weighted by their lengths; the usage counts what the engine saw."""
    response = build(rules={"long_input": "chunk"}).post("/v1/embeddings", json={"input": "a" * 28})
    assert response.json is not None
    assert response.json["usage"]["prompt_tokens"] == 32
    assert response.json["data"][0]["embedding"][0] == 16


def test_dimensions_need_a_matryoshka_model() -> None:
    """The native size is always fine; the error names the model and its sizes."""
    client = build()
    assert client.post("/v1/embeddings", json={"input": "a", "dimensions": 2}).status_code == 200
    status, told = error(client, input="a", dimensions=1)
    assert (status, told["param"]) == (400, "dimensions")
    assert "SumModel" in told["message"]
    assert error(client, input="a", dimensions=3)[0] == 400


def test_a_priority_reaches_the_engine() -> None:
    """The engine ignores it unless it schedules by priority."""
    core = SumCore()
    client = build(core)
    for body in ({}, {"priority": None}, {"priority": -5}):
        assert client.post("/v1/embeddings", json={"input": "a", **body}).status_code == 200
    assert list(core.priorities.values()) == [0, 0, -5]
