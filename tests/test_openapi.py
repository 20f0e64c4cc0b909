from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import jsonschema
import pytest
from flask.testing import FlaskClient
from openapi_spec_validator import validate

from handler.chat import ChatTemplate
from handler.errors import DeadlineExceededError, EngineDeadError, OverloadedError
from handler.lifecycle import Lifecycle
from handler.openapi import describe
from handler.service import EmbeddingService, LoadedModel, Rules
from handler.tokenization import TextTokenizer
from tests.fake_app import build, loaded
from tests.fakes import VOCABULARY, ByteTokenizer, SumCore
from tests.pharia_requests import BODIES, text, token_ids

RULES = Rules(names=("sum", "alias"))


def closed(node: Any) -> Any:
    """Copy a document with every object closed, so that an answer with a field that is not described is found."""
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    copy = {key: closed(value) for key, value in node.items()}
    return {**copy, "additionalProperties": False} if "properties" in node and "type" in node else copy


class Described:
    """What the description of an application says, to hold answers against."""

    def __init__(self, client: FlaskClient, **headers: str) -> None:
        """Read and check the description."""
        self.client = client
        document = client.get("/openapi.json", headers=headers).json
        assert document is not None
        validate(document)
        self.document: dict[str, Any] = document
        self._closed = closed(document)

    def ask(self, method: str, path: str, *, route: str | None = None, **options: Any) -> int:
        """Ask, find status, content type, headers and body in the description, and return the status."""
        response = self.client.open(path, method=method, **options)
        described = self.document["paths"][route or path][method.lower()]["responses"]
        assert str(response.status_code) in described, (path, response.status_code, response.text)
        answer = self.resolved(described[str(response.status_code)])
        for name, header in answer["headers"].items():
            assert name in response.headers or not header["required"] or name == "Allow", (path, name)
        if "content" in answer:
            content = answer["content"][response.mimetype]
            if response.mimetype == "application/json":
                self.check(content.get("schema", {}), response.json)
        else:
            assert response.data == b""
        return response.status_code

    def resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        """Follow a reference."""
        if "$ref" in node:
            _, *steps = node["$ref"].split("/")
            found = self.document
            for step in steps:
                found = found[step]
            return found
        return node

    def check(self, schema: dict[str, Any], value: Any) -> None:
        """Hold *value* against *schema*."""
        validator = jsonschema.Draft202012Validator(
            {"$id": "urn:x", **closed(schema), "components": self._closed["components"]}
        )
        validator.validate(value)

    def takes(self, path: str, body: Any) -> bool:
        """Whether the description allows *body* in a request."""
        schema = self.document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        components = {"components": self.document["components"]}
        return bool(jsonschema.Draft202012Validator({"$id": "urn:x", **schema, **components}).is_valid(body))


@pytest.fixture(scope="module")
def described() -> Described:
    """A ready server without keys, whose model has a chat template."""
    chat = ChatTemplate(lambda *_, **__: "rendered")
    tokenizer = TextTokenizer(ByteTokenizer(), vocab_size=VOCABULARY, chat=chat)
    return Described(build(model=loaded(SumCore(), tokenizer=tokenizer)))


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


INPUTS: list[Any] = [
    "a",
    "",
    ["a"],
    [1],
    [1.0],
    [[1.0]],
    [1.5],
    [[1], [2, 3]],
    [],
    [[]],
    [True],
    ["a", 1],
    [1, "a"],
    5,
    {},
    None,
]
FIELDS: dict[str, tuple[Any, ...]] = {
    "dimensions": (2, 2.0, None, 0, 0.0, -1, "2", 2.5, True),
    "encoding_format": ("float", "base64", "bytes", None, "other", 1),
    "embed_dtype": ("float16", None, "int8"),
    "endianness": ("big", None, "middle"),
    "user": ("u", None, 5),
    "truncate_prompt_tokens": (-1, 5, None, -2, "5"),
    "truncation_side": ("left", None, "up"),
    "add_special_tokens": (True, None, 1, "true"),
    "normalize": (False, None, 0),
    "priority": (-(2**63), 2**63 - 1, 1.0, None, 2**63, 0.5),
    "prompt_name": ("query", None, 5),
    "instruction": ("i", None, []),
    "chat_template_kwargs": ({"a": 1}, None, []),
    "messages": ([{"role": "user", "content": "a"}], None),
    "model": ("sum", "alias", None, "other", 5),
    "unknown": (None, 1, {"a": []}),
}
MESSAGES: list[Any] = [
    [],
    [{}],
    [{"role": "user"}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": ["a", {"type": "text", "text": "b"}]}],
    [{"role": "user", "content": [{"type": "input_text", "text": "b"}]}],
    [{"role": "user", "content": []}],
    [{"role": "user", "content": 5}],
    [{"role": "user", "content": [5]}],
    [{"role": 1, "content": "a"}],
    [{"role": "user", "content": [{"type": "text"}]}],
    [{"role": "user", "content": [{"type": "text", "text": 5}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    "a",
]
PROMPTS: list[Any] = [
    *("a", "", [text("a")], [text("a", controls=[])], [token_ids(100)], [text("a"), token_ids(100)]),
    *(None, 5, {}, ["a"], [{"data": "a"}], [text("a", controls=[{}])], [text("a", controls={})]),
    *([token_ids(-1)], [{"type": "image", "data": "x"}], [{"type": "token_ids", "data": ["a"]}], [text(5)]),  # type: ignore[arg-type]
]
SEMANTIC: list[dict[str, Any]] = [
    *({"prompt": prompt} for prompt in PROMPTS),
    *({"representation": "other"}, {"representation": None}, {"compress_to_size": 64}),
]
BATCHES: list[Any] = [["a"], [5], 0 * ["a"], 100 * ["a"], 101 * ["a"]]
TOKENS: list[Any] = [[100], [], None, [-1], [2**31]]
BARE: list[Any] = [{}, [], "a", None]
REQUESTS: list[tuple[str, Any]] = [
    *(("/v1/embeddings", body) for body in BARE),
    *(("/v1/embeddings", {"input": value}) for value in INPUTS),
    *(("/v1/embeddings", {"messages": value}) for value in MESSAGES),
    *(("/v1/embeddings", {"input": "a", field: value}) for field, values in FIELDS.items() for value in values),
    *(("/v1/semantic_embed", BODIES["semantic_embed"] | changes) for changes in SEMANTIC),
    *(("/v1/batch_semantic_embed", BODIES["batch_semantic_embed"] | {"prompts": value}) for value in BATCHES),
    *(("/v1/instructable_embed", {"input": "a", "instruction": value}) for value in ("i", "", None)),
    *(("/v1/tokenize", {"prompt": prompt}) for prompt in PROMPTS),
    *(("/v1/detokenize", {"token_ids": value}) for value in TOKENS),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
def test_the_description_allows_what_the_server_takes(described: Described, path: str, body: Any) -> None:
    """No more and no less, but for what several fields together or the model's own limits decide."""
    response = described.client.post(path, json=body)
    assert described.takes(path, body) == (response.status_code == 200), response.text


def test_the_operators_limits_are_in_it() -> None:
    """Number of inputs, names, and whether token ids are taken."""

    def takes(rules: dict[str, Any], path: str = "/v1/embeddings", **body: Any) -> bool:
        client = build(rules=rules)
        described = Described(client)
        assert described.takes(path, body) == (client.post(path, json=body).status_code == 200)
        return described.takes(path, body)

    assert [takes({"max_inputs": 2}, input=count * ["a"]) for count in (2, 3)] == [True, False]
    assert [takes({"max_inputs": 2}, input=count * [[1]]) for count in (2, 3)] == [True, False]
    assert [takes({"allow_token_ids": False}, input=form) for form in (["a"], [1], [[1]])] == [True, False, False]
    assert [takes({"check_model_name": check}, input="a", model="other") for check in (True, False)] == [False, True]
    for route, field in (
        ("semantic_embed", "prompt"),
        ("batch_semantic_embed", "prompts"),
        ("instructable_embed", "input"),
    ):
        prompts = [[part] if field == "prompts" else part for part in ([text("a")], [token_ids(100)])]
        bodies = [BODIES[route] | {field: prompt} for prompt in prompts]
        assert [takes({"allow_token_ids": False}, f"/v1/{route}", **body) for body in bodies] == [True, False]
    batches = [BODIES["batch_semantic_embed"] | {"prompts": ["a"] * count} for count in (2, 3)]
    assert [takes({"max_inputs": 2}, "/v1/batch_semantic_embed", **batch) for batch in batches] == [True, False]


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
