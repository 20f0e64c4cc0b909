"""One request from start to finish."""

from __future__ import annotations

import time
from dataclasses import dataclass

from handler.encoding import Body, Wire, encode_response, finish_vectors, merge_chunks
from handler.engine import Engine
from handler.errors import InvalidRequestError, ModelNotFoundError
from handler.lifecycle import Lifecycle
from handler.model_folder import Matryoshka
from handler.prompts import Prompts
from handler.protocol import EmbeddingRequest
from handler.tokenization import Batch, LengthRule, LongInput, TextTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """What a request needs of the model; reachable through `Lifecycle.admit()` only."""

    tokenizer: TextTokenizer
    prompts: Prompts
    engine: Engine
    dimensions: int
    max_tokens: int
    normalizes: bool
    matryoshka: Matryoshka
    pooling: str
    dtype: str
    architecture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the operator allows."""

    names: tuple[str, ...]  # the served name, then its aliases
    check_model_name: bool = True
    max_inputs: int = 2048
    long_input: LongInput = "error"
    allow_token_ids: bool = True
    supported: bool = True
    request_timeout_s: float = 120


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished request: the body, and what to tell of it."""

    body: Body
    inputs: int
    tokens: int
    stages_ms: dict[str, float]


class EmbeddingService:
    """Embeds requests with the model behind *lifecycle*, by *rules*."""

    def __init__(self, lifecycle: Lifecycle[LoadedModel], rules: Rules) -> None:
        """Keep both; the model may still be loading."""
        self._lifecycle = lifecycle
        self.rules = rules

    def embed(self, request: EmbeddingRequest, *, received: float) -> Answer:
        """Answer *request*, which came at *received* (monotonic seconds).

        Raises:
            ServiceError: whatever keeps it from being answered; see `errors`.
        """
        self._check(request)
        with self._lifecycle.admit() as model:
            dimensions = _dimensions(request, model)
            begin = time.monotonic()
            batch = self._tokenize(request, model)
            tokenized = time.monotonic()
            embedded = model.engine.embed(batch.token_ids, deadline=received + self.rules.request_timeout_s)
        done = time.monotonic()
        unit_length = model.normalizes if request.unit_length is None else request.unit_length
        weights = [len(ids) for ids in batch.token_ids]
        vectors = merge_chunks(embedded.vectors, batch.lengths, weights, unit_length=unit_length)
        vectors = finish_vectors(vectors, dimensions=dimensions, unit_length=unit_length)
        body = encode_response(vectors, _wire(request), model=self.rules.names[0], token_count=batch.token_count)
        seconds = {
            "parse": begin - received,
            "tokenize": tokenized - begin,
            "queue": embedded.queue_s,
            "engine": embedded.engine_s,
            "encode": time.monotonic() - done,
        }
        stages_ms = {name: round(1000 * value, 3) for name, value in seconds.items()}
        return Answer(body, request.input_count, batch.token_count, stages_ms)

    def _check(self, request: EmbeddingRequest) -> None:
        """Refuse what needs no model to be refused."""
        rules = self.rules
        if not rules.supported:
            message = "embeddings are switched off for this model (EMBED_EMBEDDING_TASK_SUPPORTED=false)"
            raise InvalidRequestError(message)
        if rules.check_model_name and request.model is not None and request.model not in rules.names:
            message = f"this server has no such model; it serves {', '.join(rules.names)}"
            raise ModelNotFoundError(message, param="model")
        if request.input_count > rules.max_inputs:
            message = f"input has {request.input_count} items, at most {rules.max_inputs} are taken in one request"
            raise InvalidRequestError(message, param="input")
        if request.token_lists is not None and not rules.allow_token_ids:
            message = (
                "this server takes text, not token ids, which another model's tokenizer may have made; "
                "with LangChain set check_embedding_ctx_length=False"
            )
            raise InvalidRequestError(message, param="input")

    def _tokenize(self, request: EmbeddingRequest, model: LoadedModel) -> Batch:
        rule = self._length_rule(request, model)
        if request.token_lists is not None:
            return model.tokenizer.check_token_ids(request.token_lists, rule)
        if request.messages is not None:
            text = model.tokenizer.render_chat(
                [message.model_dump() for message in request.messages],
                add_generation_prompt=bool(request.add_generation_prompt),
                template_kwargs=request.chat_template_kwargs or {},
            )
            return model.tokenizer.encode_texts([text], rule, add_special_tokens=bool(request.add_special_tokens))
        frame = model.prompts.frame(
            prompt_name=request.prompt_name, input_type=request.input_type, instruction=request.instruction
        )
        return model.tokenizer.encode_texts(
            frame.apply(request.texts or []), rule, add_special_tokens=request.add_special_tokens is not False
        )

    def _length_rule(self, request: EmbeddingRequest, model: LoadedModel) -> LengthRule:
        wanted = request.truncate_prompt_tokens
        side = request.truncation_side or "right"
        if wanted is None:
            return LengthRule(model.max_tokens, self.rules.long_input, side)
        if wanted > model.max_tokens or wanted == 0:
            message = f"truncate_prompt_tokens must be -1 or from 1 to {model.max_tokens}, what this model takes"
            raise InvalidRequestError(message, param="truncate_prompt_tokens")
        return LengthRule(model.max_tokens if wanted == -1 else wanted, "truncate", side)


def _dimensions(request: EmbeddingRequest, model: LoadedModel) -> int | None:
    """Return the size to cut to, None where nothing is cut."""
    wanted = request.dimensions
    if wanted is None or wanted == model.dimensions:
        return None
    if wanted > model.dimensions or not model.matryoshka.allows(wanted):
        message = (
            f"dimensions: this model ({model.architecture}, {model.dimensions} dimensions) cannot be cut to {wanted}; "
            f"sizes it was trained for: {model.matryoshka}"
        )
        raise InvalidRequestError(message, param="dimensions")
    return wanted


def _wire(request: EmbeddingRequest) -> Wire:
    return Wire(
        encoding_format=request.encoding_format or "float",
        embed_dtype=request.embed_dtype or "float32",
        endianness=request.endianness or "native",
    )
