from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from handler.errors import InvalidRequestError
from handler.inquiry import Chat, Inquiry, Texts, TokenLists
from handler.pharia import (
    BatchSemanticRequest,
    DetokenizeRequest,
    InstructableRequest,
    SemanticRequest,
    TokenizeRequest,
)
from handler.protocol import EmbeddingRequest, parse_request


def parse(**fields: Any) -> EmbeddingRequest:
    """Parse a request of *fields*."""
    return parse_request(json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("value", "texts", "token_lists"),
    [
        ("a", ["a"], None),
        (["a", "b"], ["a", "b"], None),
        ([1, 2], None, [[1, 2]]),
        ([[1, 2], [3]], None, [[1, 2], [3]]),
    ],
)
def test_the_four_forms_of_input(value: Any, texts: Any, token_lists: Any) -> None:
    """Texts and token ids are told apart once."""
    request = parse(input=value)
    assert request.texts == texts
    assert request.token_lists == token_lists


@pytest.mark.parametrize("field", sorted(set(EmbeddingRequest.model_fields) - {"input"}))
def test_null_means_not_given(field: str) -> None:
    """A widely used gateway sends null for what it does not set."""
    assert getattr(parse(**{"input": "a", field: None}), field) is None


def test_unknown_fields_are_ignored() -> None:
    """Clients add hosting, tags and keys of their own."""
    assert parse(input="a", hosting="x", tags=[1], nice=True).texts == ["a"]


@pytest.mark.parametrize(
    "value",
    [
        [],
        [[]],
        [["a"]],
        ["a", 1],
        [1, "a"],
        [1, [2]],
        [[1], 2],
        [1.5],
        [True],
        [[True]],
        {},
        1,
        True,
        [None],
        ["a", None],
    ],
)
def test_other_inputs_are_refused(value: Any) -> None:
    """Each names the field."""
    with pytest.raises(InvalidRequestError) as caught:
        parse(input=value)
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (5, "input: must be a string, a list of strings, a list of token ids or a list of such lists"),
        ([], "input: must not be empty"),
        (["a", 1], "input.1: Input should be a valid string"),
        ([1, "a"], "input.1: Input should be a valid integer"),
        ([[1], [2, "a"]], "input.1.1: Input should be a valid integer"),
        ([[]], "input.0: must not be empty"),
    ],
)
def test_the_place_in_an_input_is_named_as_a_client_counts(value: Any, said: str) -> None:
    """By index, without the names that the forms have in here."""
    with pytest.raises(InvalidRequestError) as caught:
        parse(input=value)
    assert caught.value.message == said


@pytest.mark.parametrize(
    "fields",
    [
        {"model": 1},
        {"encoding_format": "hex"},
        {"embed_dtype": "int8"},
        {"endianness": "middle"},
        {"dimensions": 0},
        {"dimensions": "64"},
        {"dimensions": 64.5},
        {"dimensions": True},
        {"truncate_prompt_tokens": -2},
        {"truncation_side": "both"},
        {"add_special_tokens": "yes"},
        {"use_activation": 1},
        {"normalize": "no"},
        {"user": 5},
        {"priority": "high"},
        {"prompt_name": ["query"]},
        {"instruction": {}},
    ],
)
def test_fields_of_a_wrong_type_or_range_are_named(fields: dict[str, Any]) -> None:
    """The error's param is the field, so that a client can point at it."""
    with pytest.raises(InvalidRequestError) as caught:
        parse(input="secret text", **fields)
    assert caught.value.param == next(iter(fields))
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b'"a"', b"null"),
        *(b'{"input": NaN}', b'{"input": "a", "x": Infinity}', b'{"input": "a", "x": 1e999}'),
        b'{"input": "\\ud800"}',
        b'{"input": "\xff"}',
        b'{"input": "a"} trailing',
        b"[" * 100_000,
        b'{"input":' + b"[" * 100_000,
    ],
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    """NaN, infinite numbers, lone surrogates, invalid UTF-8 and endless nesting included."""
    with pytest.raises(InvalidRequestError):
        parse_request(body)


def test_a_compressed_body_is_called_what_it_is() -> None:
    """Some clients compress large bodies by themselves, and "not valid JSON" would say nothing to their users."""
    with pytest.raises(InvalidRequestError, match=r"compressed with gzip, .*; send the JSON as it is"):
        parse_request(gzip.compress(b'{"input": "a"}'))


def test_the_last_of_duplicate_keys_wins() -> None:
    """As in every common JSON parser."""
    assert parse_request(b'{"input": "a", "input": "b"}').texts == ["b"]


def test_nul_in_a_text_is_text() -> None:
    """Nothing between client and tokenizer ends a string at NUL."""
    assert parse(input="a\0b").texts == ["a\0b"]


def test_input_and_messages_exclude_each_other() -> None:
    """One of the two, never both or none."""
    with pytest.raises(InvalidRequestError, match="either input or messages"):
        parse()
    with pytest.raises(InvalidRequestError, match="either input or messages"):
        parse(input="a", messages=[{"role": "user", "content": "a"}])


def test_messages_are_texts_and_images_refused() -> None:
    """OpenAI's clients send content as a string or as a list of parts."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = parse(messages=[{"role": "user", "content": parts}])
    assert request.messages is not None
    assert request.messages[0].content == ["a", "b"]
    for content, texts in ((None, [""]), ("a", ["a"]), (["a", {"type": "input_text", "text": "b"}], ["a", "b"])):
        assert parse(messages=[{"role": "user", "content": content}]).messages[0].content == texts  # type: ignore[index]
    assert parse(messages=[{"role": "assistant"}]).messages[0].content == [""]  # type: ignore[index]
    with pytest.raises(InvalidRequestError, match="only text parts"):
        parse(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


def test_the_two_names_of_normalize_must_agree() -> None:
    """`normalize` is the older alias."""
    assert parse(input="a", normalize=False).unit_length is False
    assert parse(input="a", normalize=False, use_activation=None).unit_length is False
    assert parse(input="a").unit_length is None
    with pytest.raises(InvalidRequestError, match="must not disagree"):
        parse(input="a", normalize=False, use_activation=True)


@pytest.mark.parametrize("field", ["prompt_name", "input_type", "instruction"])
def test_prompts_need_text(field: str) -> None:
    """Nothing can be put in front of token ids."""
    with pytest.raises(InvalidRequestError, match=field):
        parse(input=[1, 2], **{field: "query"})


def test_every_field_reaches_the_inner_request() -> None:
    """What is not given is None or the default there, never guessed here."""
    assert parse(input="a").inquiry() == Inquiry(inputs=Texts(["a"]))
    asked = parse(
        input=["a"],
        model="m",
        dimensions=8,
        normalize=False,
        truncate_prompt_tokens=5,
        truncation_side="left",
        add_special_tokens=False,
        prompt_name="query",
    )
    assert asked.inquiry() == Inquiry(
        inputs=Texts(["a"], add_special_tokens=False),
        model="m",
        dimensions=8,
        unit_length=False,
        truncate_to=5,
        truncation_side="left",
        prompt_name="query",
    )
    assert parse(input="a", input_type="query").inquiry().input_type == "query"
    assert parse(input="a", instruction="Find").inquiry().instruction == "Find"


def test_the_other_inputs_reach_the_inner_request() -> None:
    """Token ids as they are, messages as one input."""
    assert parse(input=[1, 2]).inquiry().inputs == TokenLists([[1, 2]])
    messages = [{"role": "user", "content": "a"}]
    read = [{"role": "user", "content": ["a"]}]
    plain = parse(messages=messages).inquiry().inputs
    assert (plain, len(plain)) == (Chat(read), 1)
    kwargs = {"x": 1, "add_generation_prompt": False}
    asked = parse(messages=messages, add_generation_prompt=True, add_special_tokens=True, chat_template_kwargs=kwargs)
    told = {"x": 1, "add_generation_prompt": True}
    assert asked.inquiry().inputs == Chat(read, told, add_special_tokens=True)
    going_on = parse(messages=messages, continue_final_message=True).inquiry().inputs
    assert going_on == Chat(read, {"continue_final_message": True})
    with pytest.raises(InvalidRequestError, match="cannot be used together"):
        parse(messages=messages, continue_final_message=True, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ({"input": "a", "dimensions": 384.0}, {"input": "a", "dimensions": 384}),
        ({"input": "a", "truncate_prompt_tokens": -1.0}, {"input": "a", "truncate_prompt_tokens": -1}),
        ({"input": "a", "priority": 1.0}, {"input": "a", "priority": 1}),
        ({"input": [101.0, 5, 102.0]}, {"input": [101, 5, 102]}),
        ({"input": [[101], [5.0]]}, {"input": [[101], [5]]}),
    ],
)
def test_a_whole_number_may_have_a_point(sent: dict[str, Any], meant: dict[str, Any]) -> None:
    """Languages that know one kind of number write all of them so, and to JSON they are the same."""
    assert parse(**sent) == parse(**meant)


@pytest.mark.parametrize(
    "field", [{"dimensions": 1.5}, {"dimensions": True}, {"dimensions": "384"}, {"dimensions": 0.0}]
)
def test_what_is_no_whole_number_is_refused(field: dict[str, Any]) -> None:
    """By its field."""
    with pytest.raises(InvalidRequestError, match="dimensions: ") as caught:
        parse(input="a", **field)
    assert caught.value.param == "dimensions"
    for ids in ([1.5], [1, True], [[1, "2"]], [1.0, 1.5]):
        with pytest.raises(InvalidRequestError, match="input"):
            parse(input=ids)


def lists_in(schema: Any) -> Iterator[dict[str, Any]]:
    """Find every list of a pydantic core schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            yield schema
        schema = list(schema.values())
    if isinstance(schema, list | tuple):
        for part in schema:
            yield from lists_in(part)


@pytest.mark.parametrize(
    "wire",
    [
        *(EmbeddingRequest, SemanticRequest, BatchSemanticRequest, InstructableRequest, TokenizeRequest),
        DetokenizeRequest,
    ],
)
def test_the_first_bad_item_ends_the_check(wire: Any) -> None:
    """A list of a million bad ones would else become a million errors, gigabytes of them."""
    found = list(lists_in(wire.__pydantic_core_schema__))
    assert found or wire is TokenizeRequest
    assert all(schema.get("fail_fast") for schema in found)


def test_a_body_of_bad_messages_has_one_error() -> None:
    """As of any other list."""
    with pytest.raises(InvalidRequestError, match=r"^messages\.0: Input should be an object$"):
        parse(messages=[0] * 100_000)
