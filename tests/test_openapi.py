from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from handler.errors import DeadlineExceededError, EngineDeadError, OverloadedError
from handler.lifecycle import Lifecycle
from handler.openapi import describe
from handler.service import EmbeddingService, LoadedModel, Rules
from tests.described import Described
from tests.fake_app import build
from tests.infra.files import walk
from tests.pharia_requests import BODIES

RULES = Rules(names=("sum", "alias"))


@pytest.fixture(scope="module")
def described() -> Described:
    """A ready server without keys."""
    return Described(build())


def test_every_route_is_described_and_no_other() -> None:
    """Paths and methods are those of the application."""
    client = build()
    routes = {
        (re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in client.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    document = Described(client).document
    assert {(path, method) for path, methods in document["paths"].items() for method in methods} == routes


def test_every_array_says_what_it_holds() -> None:
    """A generator of clients (openapi-python-client) leaves out an operation with an array that does not."""
    arrays = [node for node in walk(describe(RULES, needs_key=True)) if isinstance(node, dict) and is_array(node)]
    assert len(arrays) >= 10
    assert [array for array in arrays if "items" not in array] == []


def is_array(schema: dict[str, Any]) -> bool:
    """Whether *schema* lets an array be."""
    kinds = schema.get("type")
    return kinds == "array" or (isinstance(kinds, list) and "array" in kinds)


def test_ids_are_unique_and_every_operation_says_what_it_does() -> None:
    """Generated clients name their functions by them."""
    operations = [found for path in describe(RULES, needs_key=True)["paths"].values() for found in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) == 31
    assert all(operation["summary"] for operation in operations)


def test_the_answers_of_a_ready_server_are_as_described(described: Described) -> None:
    """Every operation at every path, every form of the vectors."""
    bodies = {f"{prefix}/{path}": body for path, body in BODIES.items() for prefix in ("", "/v1")}
    for path, methods in described.document["paths"].items():
        for method in methods:
            real = path.replace("{name}", "alias")
            body: dict[str, Any] = {"json": bodies.get(path, {"input": ["a", "b"]})} if method == "post" else {}
            assert described.ask(method, real, route=path, **body) == 200
    for encoding in ("float", "base64", "bytes", "bytes_only"):
        asked = {"input": "a", "encoding_format": encoding}
        assert described.ask("post", "/v1/embeddings", json=asked) == 200
    for wanted in ({}, {"tokens": True}, {"token_ids": True}):
        assert described.ask("post", "/tokenize", json={"prompt": "a", **wanted}) == 200


@pytest.mark.parametrize(
    ("prepare", "state", "statuses"),
    [
        (lambda _: None, "starting", {"/health": 200, "/ready": 503, "/ping": 204}),
        (lambda life: life.drain(), "draining", {"/health": 200, "/ready": 503, "/ping": 503}),
        (lambda life: life.fail(), "failed", {"/health": 503, "/ready": 503, "/ping": 503}),
    ],
)
def test_the_answers_of_a_server_that_cannot_embed_are_as_described(
    prepare: Callable[[Lifecycle[LoadedModel]], None], state: str, statuses: dict[str, int]
) -> None:
    """While it loads, while it stops, after it has failed."""
    life: Lifecycle[LoadedModel] = Lifecycle(slots=1)
    prepare(life)
    described = Described(build(ready=False, lifecycle=life))
    assert described.client.get("/health").json["state"] == state  # type: ignore[index]
    for path, status in statuses.items():
        assert described.ask("get", path) == status
    for path in ("/v1/models", "/v1/models/sum", "/models_available", "/model-settings", "/version", "/metrics"):
        assert described.ask("get", path, route=path.replace("/sum", "/{name}")) == 200
    for path, body in BODIES.items():
        assert described.ask("post", f"/{path}", json=body) == 503
    assert described.ask("post", "/v1/embeddings", json={"input": "a"}) == 503


def test_errors_are_as_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of OpenAI's routes and of PhariaInference's, each with its envelope and its headers."""
    described = Described(build(keys=("key",)))
    key = {"Authorization": "Bearer key"}
    for path, body in (("/v1/embeddings", {"input": "a"}), ("/v1/semantic_embed", BODIES["semantic_embed"])):
        assert described.ask("post", path, json=body) == 401
        assert described.ask("post", path, headers=key, data=b"{") == 400
        assert described.ask("post", path, headers=key, json={**body, "model": "other"}) == 404
        assert described.ask("post", path, headers=key, data=b"x" * 5000) == 413
        for problem, status in (
            (OverloadedError, 503 if "semantic" in path else 429),
            (EngineDeadError, 503),
            (DeadlineExceededError, 504),
            (RuntimeError, 500),
        ):

            def fail(*_: Any, problem: type[Exception] = problem, **__: Any) -> None:
                raise problem("told")

            with monkeypatch.context() as patch:
                patch.setattr(EmbeddingService, "embed", fail)
                assert described.ask("post", path, headers=key, json=body) == status
    assert described.ask("get", "/v1/models/none", route="/v1/models/{name}") == 404
    assert described.ask("get", "/models/sum/tokenizer", route="/models/{name}/tokenizer") == 401


@pytest.mark.parametrize(("path", "methods"), [("/v1/embeddings", "OPTIONS, POST"), ("/version", "GET, HEAD, OPTIONS")])
def test_a_wrong_method_is_told_the_right_ones(described: Described, path: str, methods: str) -> None:
    """RFC 9110 wants the Allow header with it; the description has it at every path."""
    response = described.client.delete(path)
    assert (response.status_code, response.headers["Allow"]) == (405, methods)
    (operation,) = described.document["paths"][path].values()
    answer = described.resolved(operation["responses"]["405"])
    assert answer["headers"]["Allow"]["required"]
    described.check(answer["content"]["application/json"]["schema"], response.json)


def test_keys_are_in_it_where_they_are_needed() -> None:
    """Each guarded operation says so; an open server promises no 401."""

    def guarded(**settings: bool) -> set[str]:
        document = describe(RULES, **settings)
        paths = {
            path for path, methods in document["paths"].items() for found in methods.values() if "security" in found
        }
        asked = {
            path for path, methods in document["paths"].items() for x in methods.values() if "401" in x["responses"]
        }
        assert paths == asked
        assert ("securitySchemes" in document["components"]) == bool(paths)
        return paths

    pages = {"/metrics", "/docs", "/openapi.json"}
    posts = {path for path, methods in describe(RULES, needs_key=True)["paths"].items() if "post" in methods}
    tokenizer = {"/models/{name}/tokenizer", "/v1/models/{name}/tokenizer"}
    assert guarded(needs_key=False) == guarded(needs_key=False, pages_need_key=True) == set()
    assert guarded(needs_key=True) == posts | tokenizer
    assert guarded(needs_key=True, pages_need_key=True) == posts | tokenizer | pages


def test_a_description_is_not_shared_between_servers() -> None:
    """What one operator allows does not leak into the next description."""
    before = deepcopy(describe(RULES, needs_key=False))
    describe(Rules(names=("other",), max_inputs=1, allow_token_ids=False), needs_key=True)
    assert describe(RULES, needs_key=False) == before
