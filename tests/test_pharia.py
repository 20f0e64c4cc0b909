from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from handler.errors import (
    MissingCapabilityError,
)
from handler.inquiry import Mixed, Texts
from handler.model_folder import Matryoshka
from handler.pharia import (
    BatchSemanticRequest,
    DetokenizeRequest,
    InstructableRequest,
    SemanticRequest,
    TokenizeRequest,
)
from handler.protocol import parse_body
from handler.tokenization import TextTokenizer
from tests.fake_app import build, loaded
from tests.fakes import VOCABULARY, ByteTokenizer, SumCore
from tests.pharia_requests import (
    BATCH,
    BODIES,
    INSTRUCTABLE,
    SEMANTIC,
    WideCore,
    post,
    refused,
    semantic,
    text,
    token_ids,
)


@pytest.mark.parametrize(
    ("prompt", "inputs"),
    [
        ("ab", Texts(["ab"])),
        ([text("ab")], Texts(["ab"])),
        ([text("a"), text("b", controls=[]), text("c", controls=None)], Texts(["abc"])),
        ([], Texts([""])),
        ([text("a"), token_ids(5, 6, controls=[]), text("b")], Mixed([["a", [5, 6], "b"]])),
        ([token_ids()], Mixed([[[]]])),
    ],
)
def test_a_prompt_is_a_string_or_items(prompt: Any, inputs: Any) -> None:
    """Items are concatenated; where all are text, nothing but the text is left."""
    assert semantic(prompt=prompt).inputs == inputs


def test_a_batch_with_one_mixed_prompt_is_mixed() -> None:
    """Its other prompts stay what they are."""
    body = {**BATCH, "prompts": ["x", [text("a"), token_ids(5)]]}
    request = parse_body(json.dumps(body).encode(), BatchSemanticRequest)
    assert request.inquiry().inputs == Mixed([["x"], ["a", [5]]])


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"type": "image", "data": "aGk=", "controls": []}, "no images"),
        ({"type": "image"}, "no images"),
        (text("a", controls=[{"start": 0, "length": 1, "factor": 2.0}]), "attention controls"),
        (token_ids(5, controls=[{"index": 0, "factor": 2.0}]), "attention controls"),
    ],
)
def test_images_and_controls_are_more_than_a_model_can(item: dict[str, Any], said: str) -> None:
    """The message says why and what would work."""
    with pytest.raises(MissingCapabilityError, match=said) as caught:
        semantic(prompt=[text("b"), item])
    assert "send" in caught.value.message


@pytest.mark.parametrize(
    ("wire", "body", "optional"),
    [
        (SemanticRequest, SEMANTIC, {"compress_to_size", "normalize", "model"}),
        (BatchSemanticRequest, BATCH, {"compress_to_size", "normalize", "model"}),
        (InstructableRequest, INSTRUCTABLE, {"normalize", "model"}),
        (TokenizeRequest, BODIES["tokenize"], {"tokens", "token_ids", "model"}),
        (DetokenizeRequest, BODIES["detokenize"], {"model"}),
    ],
)
def test_null_for_every_optional_field(wire: Any, body: dict[str, Any], optional: set[str]) -> None:
    """`normalize: null` was an error that three projects ran into."""
    ignored = ("contextual_control_threshold", "control_log_additive", "hosting", "tags")
    required = {name for name, field in wire.model_fields.items() if field.is_required()}
    assert set(wire.model_fields) - required == optional
    parse_body(json.dumps({**body, **dict.fromkeys((*optional, *ignored))}).encode(), wire)


def test_what_steers_other_servers_is_ignored() -> None:
    """Whatever it holds."""
    ignored = {"contextual_control_threshold": 0.5, "control_log_additive": False, "hosting": "x", "tags": ["y"]}
    assert semantic(**ignored) == semantic()


@pytest.mark.parametrize(
    ("path", "changes", "named"),
    [
        ("semantic_embed", {"prompt": None}, "prompt: must be a string or a list of prompt items"),
        ("semantic_embed", {"prompt": 5}, "prompt: "),
        ("semantic_embed", {"prompt": ["secret"]}, "prompt.0: must be an object with type text or token_ids"),
        ("semantic_embed", {"prompt": [{"type": "secret"}]}, "prompt.0: "),
        ("semantic_embed", {"prompt": [{"type": "text"}]}, "prompt.0.data: this field is required"),
        ("semantic_embed", {"prompt": [{"type": "token_ids", "data": ["secret"]}]}, "prompt.0.data.0: "),
        ("semantic_embed", {"prompt": [{"type": "token_ids", "data": [True]}]}, "prompt.0.data.0: "),
        ("semantic_embed", {"prompt": [{"type": "token_ids", "data": [999]}]}, "input 0: token id 999"),
        ("semantic_embed", {"prompt": "secret" * 9}, "input 0 has 56 tokens"),
        ("semantic_embed", {"representation": None}, "representation: "),
        ("semantic_embed", {"representation": "secret"}, "representation: Input should be 'symmetric', 'document' or"),
        ("semantic_embed", {"compress_to_size": 64}, "compress_to_size: Input should be 128"),
        ("semantic_embed", {"normalize": "secret"}, "normalize: "),
        ("semantic_embed", {"model": 5}, "model: "),
        ("batch_semantic_embed", {"prompts": []}, "prompts: must not be empty"),
        ("batch_semantic_embed", {"prompts": "secret"}, "prompts: "),
        ("batch_semantic_embed", {"prompts": ["a"] * 101}, "prompts: List should have at most 100 items"),
        ("batch_semantic_embed", {"prompts": ["a", 5]}, "prompts.1: "),
        ("instructable_embed", {"instruction": None}, "instruction: "),
        ("instructable_embed", {"input": {}}, "input: "),
        ("tokenize", {"prompt": 5}, "prompt: "),
        ("tokenize", {"tokens": "secret"}, "tokens: "),
        ("tokenize", {"token_ids": 1}, "token_ids: "),
        ("detokenize", {"token_ids": ["secret"]}, "token_ids.0: "),
        ("detokenize", {"token_ids": [-1]}, "input 0: token id -1"),
    ],
)
def test_bad_fields_are_named_and_never_quoted(path: str, changes: dict[str, Any], named: str) -> None:
    """400 in PhariaInference's envelope."""
    status, code, message = refused(build(), path, **changes)
    assert (status, code) == (400, "PAYLOAD_ERROR")
    assert message.startswith(named)
    assert "secret" not in message


def test_a_whole_number_may_have_a_point_here_too() -> None:
    """As deep as a body has numbers: an id in an item of a prompt of a batch."""
    item = {"type": "token_ids", "data": [7.0]}
    assert post(build(), "batch_semantic_embed", prompts=[[item]])["embeddings"] == [[3, 10]]


def test_what_is_not_json_is_refused() -> None:
    """As on OpenAI's route, in the other envelope."""
    response = build().post("/semantic_embed", data=b"{")
    assert (response.status_code, response.json and response.json["code"]) == (400, "PAYLOAD_ERROR")


@pytest.mark.parametrize("prefix", ["", "v1/"])
@pytest.mark.parametrize("query", ["", "?nice=true"])
def test_every_route_has_two_paths(prefix: str, query: str) -> None:
    """The client joins host and path, and both forms of the host are in use."""
    client = build()
    for path, body in BODIES.items():
        assert client.post(f"/{prefix}{path}{query}", json=body).status_code == 200
    for path in ("models_available", "model-settings", "version", "models/sum/tokenizer"):
        assert client.get(f"/{prefix}{path}{query}").status_code == 200


def test_a_semantic_answer() -> None:
    """The vector as it is, the version, and what was counted."""
    assert post(build(), "semantic_embed", prompt="ab") == {
        "model_version": "1",
        "embedding": [4, 1 + 100 + 101 + 2],
        "num_tokens_prompt_total": 4,
    }


def test_a_batch_comes_back_in_order() -> None:
    """Strings, items and token ids in one."""
    answer = post(build(), "batch_semantic_embed", prompts=["ab", [text("a")], [token_ids(7), text("a")]])
    assert answer["embeddings"] == [[4, 204], [3, 103], [4, 110]]
    assert answer["num_tokens_prompt_total"] == 11
    assert answer["model_version"] == "1"


def test_a_representation_puts_its_prompt_in_front() -> None:
    """Of strings and of items alike, and it is counted: the engine computes it."""
    client = build()
    query = post(client, "semantic_embed", prompt="ab", representation="query")
    assert query == post(client, "semantic_embed", prompt="q: ab")
    assert post(client, "semantic_embed", prompt="ab", representation="document") == post(
        client, "semantic_embed", prompt="ab"
    )
    items = post(client, "semantic_embed", prompt=[text("a"), token_ids(101)], representation="query")
    assert items == query


def test_an_instruction_is_put_in_front_and_not_counted() -> None:
    """PhariaInference counts the input alone."""
    client = build()
    instructed = post(client, "instructable_embed", input="ab", instruction="find")
    assert instructed["embedding"] == post(client, "instructable_embed", input="find ab")["embedding"]
    assert instructed["num_tokens_prompt_total"] == 4
    items = post(client, "instructable_embed", input=[text("a"), token_ids(101)], instruction="find")
    assert items == instructed
    none = post(client, "instructable_embed", input="ab")
    assert none == post(client, "semantic_embed", prompt="ab")


def test_the_metrics_count_an_instruction(caplog: pytest.LogCaptureFixture) -> None:
    """They and the log tell what the engine computed."""
    client = build()
    with caplog.at_level("INFO"):
        answer = post(client, "instructable_embed", input="ab", instruction="find")
    assert answer["num_tokens_prompt_total"] == 4
    assert [vars(record)["tokens"] for record in caplog.records if record.message == "request"] == [9]
    assert "\nembed_tokens_total 9.0\n" in client.get("/metrics").text


@pytest.mark.parametrize("empty", ["", [text("")]])
def test_an_empty_text_under_an_instruction(empty: Any) -> None:
    """It is no more than the instruction, where the tokenizer adds nothing of its own; to count it is no error."""
    client = build(
        model=loaded(SumCore(), tokenizer=TextTokenizer(ByteTokenizer(special=False), vocab_size=VOCABULARY))
    )
    answer = post(client, "instructable_embed", input=empty, instruction="find")
    assert (answer["num_tokens_prompt_total"], answer["embedding"][0]) == (0, 5)


@pytest.mark.parametrize("path", ["semantic_embed", "instructable_embed"])
@pytest.mark.parametrize(("normalize", "length"), [(None, False), (False, False), (True, True)])
def test_vectors_are_raw_unless_unit_length_is_asked_for(path: str, normalize: Any, length: bool) -> None:  # noqa: FBT001
    """Also from a model whose own modules normalise."""
    answer = post(build(model=loaded(SumCore(), normalizes=True)), path, normalize=normalize)
    raw = np.array([3, 103])
    expected = raw / np.linalg.norm(raw) if length else raw
    assert np.allclose(answer["embedding"], expected)


def test_compression_follows_the_matryoshka_rule() -> None:
    """Cut, and at unit length where that is asked for; 400 with the reason from a model that was not trained for it."""
    sizes = Matryoshka(sizes=(128,))
    client = build(model=loaded(WideCore(), dimensions=256, matryoshka=sizes))
    full = np.array(post(client, "semantic_embed")["embedding"])
    cut = post(client, "semantic_embed", compress_to_size=128)["embedding"]
    assert np.allclose(cut, full[:128])
    unit = post(client, "batch_semantic_embed", compress_to_size=128, normalize=True)["embeddings"]
    assert np.allclose(unit, [full[:128] / np.linalg.norm(full[:128])])
    small = loaded(SumCore(), matryoshka=Matryoshka(minimum=1))  # of 2 dimensions, which no operator makes more
    for model, allowed in ((loaded(WideCore(), dimensions=256), True), (small, False)):
        status, code, message = refused(build(model=model), "semantic_embed", compress_to_size=128)
        assert (status, code) == (400, "MISSING_CAPABILITY")
        assert "SumModel" in message
        assert ("EMBED_MATRYOSHKA_DIMENSIONS" in message) == allowed


def test_images_are_refused_in_the_envelope() -> None:
    """And the closed route too."""
    assert refused(build(), "semantic_embed", prompt=[{"type": "image", "data": ""}])[:2] == (400, "MISSING_CAPABILITY")
    closed = build(rules={"supported": False})
    assert refused(closed, "instructable_embed")[:2] == (400, "MISSING_CAPABILITY")


def test_token_ids_can_be_closed_here_too() -> None:
    """The operator's rule holds on every route."""
    closed = build(rules={"allow_token_ids": False})
    assert refused(closed, "semantic_embed", prompt=[token_ids(5)])[0] == 400
    assert post(closed, "semantic_embed", prompt=[text("a")])["num_tokens_prompt_total"] == 3


def test_tokenize_and_detokenize() -> None:
    """What was asked for, without special tokens, and back."""
    client = build()
    assert post(client, "tokenize", prompt="ab") == {"tokens": ["a", "b"], "token_ids": [100, 101]}
    assert post(client, "tokenize", prompt="ab", tokens=False) == {"token_ids": [100, 101]}
    assert post(client, "tokenize", prompt="ab", token_ids=None) == {"tokens": ["a", "b"]}
    assert post(client, "detokenize", token_ids=[100, 101]) == {"result": "ab"}


def test_the_tokenizer_of_a_model() -> None:
    """As the JSON text that the client builds a tokenizer from; 404 for another model."""
    client = build()
    response = client.get("/models/alias/tokenizer")
    assert (response.mimetype, response.json) == ("application/json", {"model": {"type": "bytes"}})
    missing = client.get("/models/other/tokenizer")
    assert (missing.status_code, missing.json and missing.json["code"]) == (404, "UNKNOWN_MODEL")
