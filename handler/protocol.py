"""OpenAI's wire format: bytes to `EmbeddingRequest` to the inner request; nothing behind it validates again.

Reference: https://platform.openai.com/docs/api-reference/embeddings, plus the extra fields of vLLM's own server.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from handler.errors import InvalidRequestError, MissingCapabilityError
from handler.inquiry import Chat, Inquiry, Texts, TokenLists

ModelT = TypeVar("ModelT", bound=BaseModel)
# The vocabulary's size is checked with the model at hand; until then the description says what any id is.
TokenId = Annotated[int, Field(json_schema_extra={"minimum": 0, "maximum": 2**31 - 1})]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]

_MESSAGES = {
    "missing": "this field is required",
    "union_tag_not_found": "must be a string, a list of strings, a list of token ids or a list of such lists",
    "too_short": "must not be empty",
    "model_type": "Input should be an object",  # pydantic would name our class
}
_GZIP = b"\x1f\x8b"  # how all that it compresses begins, and no JSON
_DEEPEST_NUMBERS = 5  # of a body: token ids in an item of a prompt in a list of prompts
MISSING_CAPABILITY = "missing_capability"  # the type of a validation error that is not the client's mistake
# Tags of unions, which pydantic puts in the path to a field and no client knows; a field's own name comes first.
_TAGS = {"text", "texts", "tokens", "token_lists", "token_ids", "items", "image"}


def _input_kind(value: object) -> str | None:
    """Tell the four forms of `input` apart by the first item, so that errors speak of one form only."""
    if isinstance(value, str):
        return "text"
    if not isinstance(value, list):
        return None
    first = value[0] if value else ""
    if isinstance(first, str):
        return "texts"
    if isinstance(first, list):
        return "token_lists"
    return "tokens" if isinstance(first, int | float) and not isinstance(first, bool) else None


Input = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Field(min_length=1, fail_fast=True), Tag("texts")]
    | Annotated[TokenIds, Tag("tokens")]
    | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True), Tag("token_lists")],
    Discriminator(_input_kind),
]

# For the description of the API; `_texts` and `_check_together` are what checks them.
_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"enum": ["text", "input_text"]}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_CONTENT = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"anyOf": [_TEXT_PART, {"type": "string"}]}},
        {"type": "null"},
    ]
}
_INPUT_OR_MESSAGES = [
    {"required": [given], "properties": {given: {"not": {"type": "null"}}, other: {"type": "null"}}}
    for given, other in (("input", "messages"), ("messages", "input"))
]


def _texts(content: Any) -> Any:
    """Bring the three forms of a message's content to one, a list of texts."""
    if content is None or isinstance(content, str):
        return [content or ""]
    if not isinstance(content, list):
        raise ValueError("must be a string, or a list of parts")  # noqa: TRY004 - what pydantic takes for "invalid"
    return [_text_of_part(part) for part in content]


def _text_of_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type") not in ("text", "input_text"):
        raise ValueError("only text parts can be embedded; this model takes no images or audio")
    if not isinstance(text := part.get("text"), str):
        raise ValueError("the text of a text part must be a string")  # noqa: TRY004 - as above
    return text


class Message(BaseModel):
    """One chat message with text content."""

    model_config = ConfigDict(strict=True, frozen=True)

    role: str
    content: Annotated[list[str], Field(fail_fast=True), BeforeValidator(_texts), WithJsonSchema(_CONTENT)] = [""]


class EmbeddingRequest(BaseModel):
    """One request for embeddings; every optional field takes null for "not given"."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="ignore", json_schema_extra={"oneOf": list[Any](_INPUT_OR_MESSAGES)}
    )

    input: Input | None = None
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)] | None = None
    model: str | None = None
    encoding_format: Literal["float", "base64", "bytes", "bytes_only"] | None = None
    embed_dtype: Literal["float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"] | None = None
    endianness: Literal["native", "little", "big"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    add_special_tokens: bool | None = None
    use_activation: bool | None = None
    normalize: bool | None = None
    priority: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    prompt_name: str | None = None
    input_type: str | None = None
    instruction: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_together(self) -> EmbeddingRequest:
        if (self.input is None) == (self.messages is None):
            raise ValueError("give either input or messages")
        if self.add_generation_prompt and self.continue_final_message:
            raise ValueError("add_generation_prompt and continue_final_message cannot be used together")
        if None not in (self.use_activation, self.normalize) and self.use_activation != self.normalize:
            raise ValueError("use_activation and normalize mean the same and must not disagree")
        framed = {"prompt_name": self.prompt_name, "input_type": self.input_type, "instruction": self.instruction}
        given = [name for name, value in framed.items() if value is not None]
        if given and self.texts is None:
            message = f"{given[0]} needs text input; token ids and messages are embedded as they are"
            raise ValueError(message)
        return self

    @property
    def texts(self) -> list[str] | None:
        """The inputs as texts, or None where they are token ids or messages."""
        if isinstance(self.input, str):
            return [self.input]
        if self.input is not None and isinstance(self.input[0], str):
            return self.input
        return None

    @property
    def token_lists(self) -> list[list[int]] | None:
        """The inputs as token ids, or None where they are texts or messages."""
        if self.input is None or self.texts is not None:
            return None
        return [self.input] if isinstance(self.input[0], int) else self.input  # type: ignore[list-item,return-value]

    @property
    def unit_length(self) -> bool | None:
        """Whether vectors shall have unit length; None: what the model's own modules say."""
        return self.use_activation if self.use_activation is not None else self.normalize

    def inquiry(self) -> Inquiry:
        """Return what is asked for, free of this wire format."""
        return Inquiry(
            inputs=self._inputs(),
            model=self.model,
            prompt_name=self.prompt_name,
            input_type=self.input_type,
            instruction=self.instruction,
            dimensions=self.dimensions,
            unit_length=self.unit_length,
            truncate_to=self.truncate_prompt_tokens,
            truncation_side=self.truncation_side,
            priority=self.priority or 0,
        )

    def _inputs(self) -> Texts | TokenLists | Chat:
        if (texts := self.texts) is not None:
            return Texts(texts, add_special_tokens=self.add_special_tokens is not False)
        if (token_lists := self.token_lists) is not None:
            return TokenLists(token_lists)
        asked = self.model_dump(include={"add_generation_prompt", "continue_final_message"}, exclude_none=True)
        return Chat(
            [message.model_dump() for message in self.messages or []],
            options={**(self.chat_template_kwargs or {}), **asked},
            add_special_tokens=bool(self.add_special_tokens),
        )


def parse_request(body: bytes) -> EmbeddingRequest:
    """Parse and validate the *body* of OpenAI's route; raises as `parse_body`."""
    return parse_body(body, EmbeddingRequest)


def parse_body(body: bytes, wire: type[ModelT]) -> ModelT:
    """Parse and validate *body* as *wire*.

    Raises:
        InvalidRequestError: not JSON (NaN, infinite numbers, lone surrogates and invalid UTF-8 are not), or a field of
            a wrong type or out of range; the message names the field and never quotes its value.
        MissingCapabilityError: a field asks for what no model here can do.
    """
    try:
        content = orjson.loads(body.removeprefix(BOM_UTF8))  # some editors of Windows write it into a file
    except orjson.JSONDecodeError as exc:
        message = f"the body is not valid JSON: {exc.msg} at byte {exc.pos}"
        if body.startswith(_GZIP):
            message = "the body is compressed with gzip, which is not read here; send the JSON as it is"
        raise InvalidRequestError(message) from None  # the exception holds the body, which must not reach a log
    if not isinstance(content, dict):
        raise InvalidRequestError("the body must be a JSON object")
    try:
        return wire.model_validate(content)
    except ValidationError as exc:
        invalid = exc
    if any(error["type"] == "int_type" for error in invalid.errors(include_url=False, include_input=False)):
        try:
            return wire.model_validate(_with_whole_numbers(content, _DEEPEST_NUMBERS))
        except ValidationError as exc:
            invalid = exc
    raise _invalid(invalid) from None


def _with_whole_numbers(value: Any, depth: int) -> Any:
    """Write 384.0 as 384: to JSON they are the same, and some languages write every number with a point."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if depth and isinstance(value, list):
        return [_with_whole_numbers(item, depth - 1) for item in value]
    if depth and isinstance(value, dict):
        return {key: _with_whole_numbers(item, depth - 1) for key, item in value.items()}
    return value


def _invalid(exc: ValidationError) -> InvalidRequestError:
    error = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    path = [str(step) for index, step in enumerate(error["loc"]) if index == 0 or step not in _TAGS]
    message = _MESSAGES.get(error["type"], error["msg"].removeprefix("Value error, "))
    shown = f"{'.'.join(path)}: {message}" if path else message
    kind = MissingCapabilityError if error["type"] == MISSING_CAPABILITY else InvalidRequestError
    return kind(shown, param=path[0] if path else _named_field(message))


def _named_field(message: str) -> str | None:
    """Name the field that a check of several fields together speaks of first."""
    word = message.removeprefix("give either ").split(" ", 1)[0]
    return word if word in EmbeddingRequest.model_fields else None
