from __future__ import annotations

import logging
from typing import Any

import pytest
from flask.testing import FlaskClient

from handler.access import Access
from handler.errors import (
    AuthenticationError,
    ContextLengthError,
    DeadlineExceededError,
    EngineDeadError,
    HeadTooLargeError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    MissingCapabilityError,
    ModelNotFoundError,
    NotReadyError,
    OverloadedError,
    RequestTooLargeError,
    RouteNotFoundError,
    ServiceError,
    ShuttingDownError,
    SlowRequestError,
    speaks_pharia,
)
from handler.lifecycle import Lifecycle
from handler.model_folder import Matryoshka
from handler.prompts import Prompts
from handler.service import EmbeddingService, LoadedModel
from tests.fake_app import build, loaded
from tests.pharia_requests import (
    BODIES,
    SEMANTIC,
    WideCore,
    post,
    refused,
)


def test_model_names() -> None:
    """The served one, an alias or none; any name where the operator says so."""
    for path in BODIES:
        for name in ("sum", "alias", None):
            post(build(), path, model=name)
        assert refused(build(), path, model="other")[:2] == (404, "UNKNOWN_MODEL")
        post(build(rules={"check_model_name": False}), path, model="other")


def test_keys_guard_every_post_and_the_tokenizer() -> None:
    """Listings and the version stay open."""
    client = build(keys=("key",))
    responses = [client.post(f"/{path}", json=body) for path, body in BODIES.items()]
    responses.append(client.get("/v1/models/sum/tokenizer"))
    for response in responses:
        assert response.json is not None
        assert (response.status_code, response.json["code"]) == (401, "UNAUTHORIZED")
        assert response.headers["WWW-Authenticate"] == "Bearer"
    headers = {"Authorization": "Bearer key"}
    assert all(client.post(f"/{path}", json=body, headers=headers).status_code == 200 for path, body in BODIES.items())
    assert client.get("/models/sum/tokenizer", headers=headers).status_code == 200
    assert all(client.get(path).status_code == 200 for path in ("/models_available", "/v1/model-settings", "/version"))


@pytest.mark.parametrize(
    ("problem", "status", "code"),
    [
        (InvalidRequestError, 400, "PAYLOAD_ERROR"),
        (ContextLengthError, 400, "PAYLOAD_ERROR"),
        (MissingCapabilityError, 400, "MISSING_CAPABILITY"),
        (AuthenticationError, 401, "UNAUTHORIZED"),
        (ModelNotFoundError, 404, "UNKNOWN_MODEL"),
        (RouteNotFoundError, 404, "NOT_FOUND"),
        (MethodNotAllowedError, 405, "METHOD_NOT_ALLOWED"),
        (SlowRequestError, 408, "TIMEOUT"),
        (RequestTooLargeError, 413, "PAYLOAD_TOO_LARGE"),
        (HeadTooLargeError, 431, "PAYLOAD_TOO_LARGE"),
        (InternalError, 500, "INTERNAL_ERROR"),
        (NotReadyError, 503, "UNAVAILABLE"),
        (ShuttingDownError, 503, "UNAVAILABLE"),
        (EngineDeadError, 503, "UNAVAILABLE"),
        (OverloadedError, 503, "QUEUE_FULL"),
        (DeadlineExceededError, 504, "TIMEOUT"),
    ],
)
def test_every_error_has_a_code_of_theirs(
    problem: type[ServiceError], status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One table, on the classes; Retry-After goes with those that a later try can mend."""

    def fail(*_: Any, **__: Any) -> Any:
        raise problem("told")

    monkeypatch.setattr(EmbeddingService, "embed", fail)
    response = build().post("/v1/semantic_embed", json=SEMANTIC)
    assert (response.status_code, response.json) == (status, {"error": "told", "code": code})
    assert ("Retry-After" in response.headers) == (status == 503)


def test_errors_of_the_framework_have_the_envelope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong method, a path below a route, a call of other services, a large body, a broken server."""
    client = build()
    responses = [
        (client.get("/semantic_embed"), 405, "METHOD_NOT_ALLOWED"),
        (client.post("/v1/version"), 405, "METHOD_NOT_ALLOWED"),
        (client.post("/v1/models/sum/tokenizer"), 405, "METHOD_NOT_ALLOWED"),
        (client.post("/v1/semantic_embed/more"), 404, "NOT_FOUND"),
        (client.post("/complete", json={}), 404, "NOT_FOUND"),
        (client.post("/tokenize", data=b"x" * 5000), 413, "PAYLOAD_TOO_LARGE"),
    ]

    def broken(*_: Any) -> None:
        raise RuntimeError("of ours")

    monkeypatch.setattr(Access, "check", broken)
    responses.append((client.post("/detokenize", json={}), 500, "INTERNAL_ERROR"))
    for response, status, code in responses:
        assert response.json is not None
        assert set(response.json) == {"error", "code"}
        assert (response.status_code, response.json["code"]) == (status, code)
        assert "of ours" not in response.json["error"]


@pytest.mark.parametrize(
    ("path", "theirs"),
    [
        ("/semantic_embed", True),
        ("/v1/model-settings", True),
        ("/v1/models/a/b/tokenizer", True),
        ("/embeddings", False),
        ("/v1/embeddings", False),
        ("/v1/models", False),
        ("/models/tokenizer", False),
        ("/v1", False),
        ("/", False),
    ],
)
def test_which_paths_have_the_envelope(path: str, theirs: bool) -> None:  # noqa: FBT001
    """OpenAI's stay OpenAI's."""
    assert speaks_pharia(path) == theirs


def test_the_listings_tell_what_the_model_can_do() -> None:
    """Both of them, under each name."""
    sizes = Matryoshka(minimum=32)
    prompts = Prompts({"query": "Do: x\nQ:"}, instruction_template="Do: {instruction}\nQ:{text}")
    client = build(model=loaded(WideCore(), dimensions=256, matryoshka=sizes, prompts=prompts))
    available = client.get("/models_available").json
    settings = client.get("/v1/model-settings").json
    common = {
        "name": "sum",
        "description": "adds",
        "max_context_size": 16,
        "maximum_completion_tokens": 0,
        "dimensions": 256,
        "compress_to_size": 128,
        "representations": {"query": "query", "document": None, "symmetric": None},
    }
    assert available is not None
    assert [model["name"] for model in available] == ["sum", "alias"]
    assert available[0] == {
        **common,
        "hostings": [],
        "embedding_types": ["semantic", "instructable"],
        "image_support": False,
        "qa_support": False,
        "summarization_support": False,
    }
    assert settings is not None
    assert settings[0] == {
        **common,
        "status": "available",
        "worker_type": "vllm",
        "multimodal": False,
        "semantic_embedding": True,
        "completion_type": "none",
        "embedding_type": "instructable",
        "aligned": False,
        "chat": False,
        "prompt_template": None,
    }


def test_the_listings_of_a_model_that_can_do_less() -> None:
    """Not trained with instructions, not Matryoshka; still loading; switched off."""

    def first(client: FlaskClient) -> tuple[dict[str, Any], dict[str, Any]]:
        available, settings = client.get("/models_available").json, client.get("/model-settings").json
        assert available is not None
        assert settings is not None
        return available[0], settings[0]

    available, settings = first(build())
    assert (available["embedding_types"], settings["embedding_type"]) == (["semantic"], "semantic")
    assert available["compress_to_size"] is None
    available, settings = first(build(ready=False))
    assert (settings["status"], available["max_context_size"], available["dimensions"]) == ("unavailable", None, None)
    available, settings = first(build(rules={"supported": False}))
    assert (available["embedding_types"], settings["embedding_type"]) == ([], "none")
    assert settings["semantic_embedding"] is False


def test_the_version_is_plain_text_that_their_client_accepts() -> None:
    """Our own is in /health."""
    response = build().get("/version")
    major, minor, _ = response.text.split(".")
    assert response.mimetype == "text/plain"
    assert (int(major), int(minor) >= 19) == (1, True)


def test_the_pipeline_is_that_of_openais_route(caplog: pytest.LogCaptureFixture) -> None:
    """Slots, stage times, request id and log line come with it; no text is logged."""
    with caplog.at_level(logging.INFO):
        response = build().post("/v1/semantic_embed", json={**SEMANTIC, "prompt": "secret"})
    assert "engine;dur=" in response.headers["Server-Timing"]
    line = vars(caplog.records[-1])
    assert (line["route"], line["status"], line["inputs"], line["tokens"]) == ("/v1/semantic_embed", 200, 1, 8)
    assert set(line["stages_ms"]) == {"parse", "tokenize", "queue", "engine", "encode"}
    assert "secret" not in str([vars(record) for record in caplog.records])


def test_work_needs_a_ready_model_and_a_slot() -> None:
    """On every route that computes something; 503 for both, as their client retries and calls it busy."""
    loading = build(ready=False)
    full: Lifecycle[LoadedModel] = Lifecycle(slots=1)
    client = build(lifecycle=full)
    with full.admit():
        for path in BODIES:
            assert refused(loading, path)[:2] == (503, "UNAVAILABLE")
            assert refused(client, path)[:2] == (503, "QUEUE_FULL")
    assert full.in_flight == 0
