from __future__ import annotations

from typing import Any

import pytest

from handler.chat import ChatTemplate
from handler.tokenization import TextTokenizer
from tests.described import Described
from tests.fake_app import build, loaded
from tests.fakes import VOCABULARY, ByteTokenizer, SumCore
from tests.pharia_requests import BODIES, text, token_ids


@pytest.fixture(scope="module")
def described() -> Described:
    """A ready server without keys, whose model has a chat template."""
    chat = ChatTemplate(lambda *_, **__: "rendered")
    tokenizer = TextTokenizer(ByteTokenizer(), vocab_size=VOCABULARY, chat=chat)
    return Described(build(model=loaded(SumCore(), tokenizer=tokenizer)))


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
