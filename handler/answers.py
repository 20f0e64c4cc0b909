"""What answers hold, as types, for the description of the API alone: the answers themselves are written elsewhere.

A test holds real answers against them, none with a field more or less.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Embedding(BaseModel):
    """One vector: numbers, or their bytes as base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens of the whole request."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """The vectors, in the order of the inputs."""

    id: str
    created: int
    model: str
    object: Literal["list"]
    data: list[Embedding]
    usage: Usage


class Model(BaseModel):
    """One name of the served model; null is what is known only when it has been loaded."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    max_model_len: int | None
    dimensions: int | None
    model_version: str
    description: str
    tags: list[str]
    maximum_completion_tokens: int | None


class Models(BaseModel):
    """Every name of the served model."""

    object: Literal["list"]
    data: list[Model]


class HealthModel(BaseModel):
    """What was found in the model's folder; null until it has been loaded."""

    name: str
    architecture: str | None
    dimensions: int | None
    max_tokens: int | None
    pooling: str | None
    normalizes: bool | None
    dtype: str | None
    matryoshka: str | None = Field(description="the sizes that `dimensions` takes besides the full one")
    prompts: list[str] | None = Field(description="what `prompt_name` takes")


State = Literal["starting", "ready", "draining", "failed"]


class Health(BaseModel):
    """The state of the process."""

    state: State
    version: str
    phases_s: dict[str, float] = Field(description="seconds of each phase of the start")
    in_flight: int
    model: HealthModel


class Readiness(BaseModel):
    """Whether embeddings would succeed."""

    state: State


class Vector(BaseModel):
    """One vector."""

    model_version: str
    embedding: list[float]
    num_tokens_prompt_total: int


class Vectors(BaseModel):
    """The vectors, in the order of the prompts."""

    model_version: str
    embeddings: list[list[float]]
    num_tokens_prompt_total: int


class Tokens(BaseModel):
    """What was asked for, `tokens`, `token_ids` or both."""

    tokens: list[str] = Field(default_factory=list)
    token_ids: list[int] = Field(default_factory=list)


class Detokenized(BaseModel):
    """The text of token ids."""

    result: str


class _Described(BaseModel):
    name: str
    description: str
    max_context_size: int | None
    maximum_completion_tokens: int
    dimensions: int | None
    compress_to_size: int | None
    representations: dict[str, str | None] | None = Field(description="the prompt that each representation means")


class AvailableModel(_Described):
    """One name of the served model."""

    hostings: list[str]
    embedding_types: list[Literal["semantic", "instructable"]]
    image_support: bool
    qa_support: bool
    summarization_support: bool


class ModelSettings(_Described):
    """One name of the served model."""

    status: Literal["available", "unavailable"]
    worker_type: str
    multimodal: bool
    semantic_embedding: bool
    completion_type: Literal["none"]
    embedding_type: Literal["none", "semantic", "instructable"]
    aligned: bool
    chat: bool
    prompt_template: str | None


class ErrorDetail(BaseModel):
    """What went wrong; no part of the request is quoted."""

    message: str
    type: str
    param: str | None = Field(description="the field that it is about")
    code: str | None


class Error(BaseModel):
    """OpenAI's envelope."""

    error: ErrorDetail


class PhariaError(BaseModel):
    """PhariaInference's envelope."""

    error: str
    code: str
