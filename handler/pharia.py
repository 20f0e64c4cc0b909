"""PhariaInference's wire formats: bytes to the inner request, vectors to its answers.

Source: PhariaInference's OpenAPI description 4.7.0 and what aleph-alpha-client 11.5 sends and reads. Fields that steer
where and how Aleph Alpha's own models compute (`hosting`, `tags`, `nice`, attention control) are accepted and ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from handler.encoding import Body, Vectors, json_around
from handler.inquiry import Inquiry, Mixed, Part, Texts
from handler.protocol import MISSING_CAPABILITY, TokenId

API_VERSION = "1.200.0"  # of the API, not of this server: the client asks for major 1 and at least 1.19.0
BATCH_LIMIT = 100  # prompts; the client cuts longer batches into such pieces
COMPRESSED_SIZE = 128  # the one size that `compress_to_size` takes


def _no_controls(value: Any) -> None:
    if value is not None and value != []:
        raise PydanticCustomError(
            MISSING_CAPABILITY, "attention controls work in Aleph Alpha's own models only; send the text without them"
        )


Controls = Annotated[
    Any,
    BeforeValidator(_no_controls),
    WithJsonSchema({"anyOf": [{"type": "array", "maxItems": 0, "items": {}}, {"type": "null"}]}),
]


class _Wire(BaseModel):
    """Strict types, unknown fields ignored, null for every optional field."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class TextItem(_Wire):
    """A text in a prompt."""

    type: Literal["text"]
    data: str
    controls: Controls = None


class TokenIdsItem(_Wire):
    """Token ids in a prompt."""

    type: Literal["token_ids"]
    data: Annotated[list[TokenId], Field(fail_fast=True)]
    controls: Controls = None


class _Image(_Wire):
    data: str

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, _: Any) -> Any:
        raise PydanticCustomError(
            MISSING_CAPABILITY, "this model takes no images; send items of type text or token_ids"
        )


def _item_kind(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return kind if kind in ("text", "token_ids", "image") else None


def _prompt_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    return "items" if isinstance(value, list) else None


Item = Annotated[
    Annotated[TextItem, Tag("text")]
    | Annotated[TokenIdsItem, Tag("token_ids")]
    | Annotated[SkipJsonSchema[_Image], Tag("image")],
    Discriminator(
        _item_kind,
        custom_error_type="item",
        custom_error_message="must be an object with type text or token_ids",
    ),
]
Prompt = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[Item], Field(fail_fast=True), Tag("items")],
    Discriminator(
        _prompt_kind, custom_error_type="prompt", custom_error_message="must be a string or a list of prompt items"
    ),
]
Representation = Literal["symmetric", "document", "query"]


class SemanticRequest(_Wire):
    """`POST /semantic_embed`."""

    prompt: Prompt
    representation: Representation
    compress_to_size: Literal[128] | None = None
    normalize: bool | None = None
    model: str | None = None

    def inquiry(self) -> Inquiry:
        """Return what is asked for, free of this wire format."""
        return _semantic(self, [self.prompt])


class BatchSemanticRequest(_Wire):
    """`POST /batch_semantic_embed`."""

    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=BATCH_LIMIT, fail_fast=True)]
    representation: Representation
    compress_to_size: Literal[128] | None = None
    normalize: bool | None = None
    model: str | None = None

    def inquiry(self) -> Inquiry:
        """Return what is asked for, free of this wire format."""
        return _semantic(self, self.prompts)


class InstructableRequest(_Wire):
    """`POST /instructable_embed`."""

    input: Prompt
    instruction: str
    normalize: bool | None = None
    model: str | None = None

    def inquiry(self) -> Inquiry:
        """Return what is asked for, free of this wire format."""
        return Inquiry(
            inputs=_inputs([self.input]),
            model=self.model,
            instruction=self.instruction,
            unit_length=bool(self.normalize),
            counts_prompt=False,  # as PhariaInference counts
        )


class TokenizeRequest(_Wire):
    """`POST /tokenize`."""

    prompt: Prompt
    tokens: bool | None = None
    token_ids: bool | None = None
    model: str | None = None

    @property
    def parts(self) -> list[Part]:
        """The prompt as texts and token ids."""
        return _parts(self.prompt)


class DetokenizeRequest(_Wire):
    """`POST /detokenize`."""

    token_ids: Annotated[list[TokenId], Field(fail_fast=True)]
    model: str | None = None


def _semantic(request: SemanticRequest | BatchSemanticRequest, prompts: list[Prompt]) -> Inquiry:
    return Inquiry(
        inputs=_inputs(prompts),
        model=request.model,
        representation=request.representation,
        dimensions=request.compress_to_size,
        unit_length=bool(request.normalize),
    )


def _parts(prompt: Prompt) -> list[Part]:
    return [prompt] if isinstance(prompt, str) else [item.data for item in prompt]


def _inputs(prompts: list[Prompt]) -> Texts | Mixed:
    """Concatenate the items of each prompt; prompts of nothing but text are plain texts."""
    split = [_parts(prompt) for prompt in prompts]
    texts = ["".join(part for part in parts if isinstance(part, str)) for parts in split]
    only_text = all(isinstance(part, str) for parts in split for part in parts)
    return Texts(texts) if only_text else Mixed(split)


def encode_one(vectors: Vectors, *, token_count: int, model_version: str) -> Body:
    """Write the one row of *vectors* as the answer of `semantic_embed` and `instructable_embed`."""
    content = {"model_version": model_version, "embedding": vectors[0], "num_tokens_prompt_total": token_count}
    return Body(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))


def encode_batch(vectors: Vectors, *, token_count: int, model_version: str) -> Body:
    """Write (n, dim) *vectors* as the answer of `batch_semantic_embed`."""
    after = {"num_tokens_prompt_total": token_count}
    return Body(json_around({"model_version": model_version}, "embeddings", vectors, lambda _, row: row, after))


def encode_tokens(request: TokenizeRequest, tokens: list[tuple[int, str]]) -> dict[str, Any]:
    """Return what *request* asks to be told of its *tokens*, pairs of id and text."""
    told = {"tokens": [token for _, token in tokens], "token_ids": [token_id for token_id, _ in tokens]}
    return {field: values for field, values in told.items() if getattr(request, field)}
