"""One request from start to finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from handler.encoding import Body, Encoder, finish_vectors, merge_chunks
from handler.engine import Engine
from handler.errors import DeadlineExceededError, InvalidRequestError, MissingCapabilityError, ModelNotFoundError
from handler.inquiry import Chat, Inquiry, Mixed, Texts, TokenLists
from handler.lengths import Batch, LengthRule, LongInput
from handler.lifecycle import Lifecycle
from handler.model_folder import Matryoshka
from handler.prompts import Frame, Prompts
from handler.strands import make_way
from handler.tokenization import TextTokenizer


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

    def can_cut_to(self, size: int) -> bool:
        """Whether vectors of *size* numbers can be had."""
        return size == self.dimensions or (size < self.dimensions and self.matryoshka.allows(size))


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
    tokens: int  # that the engine computed
    stages_ms: dict[str, float]


class EmbeddingService:
    """Embeds requests with the model behind *lifecycle*, by *rules*."""

    def __init__(self, lifecycle: Lifecycle[LoadedModel], rules: Rules) -> None:
        """Keep both; the model may still be loading."""
        self._lifecycle = lifecycle
        self.rules = rules

    def embed(self, inquiry: Inquiry, encode: Encoder, *, received: float) -> Answer:
        """Answer *inquiry*, which came at *received* (monotonic seconds), in the wire format of *encode*.

        Raises:
            ServiceError: whatever keeps it from being answered; see `errors`.
        """
        self._check(inquiry)
        with self._lifecycle.admit() as model:
            dimensions = _dimensions(inquiry, model)
            begin = time.monotonic()
            deadline = begin + self.rules.request_timeout_s  # waiting for the cold start has a limit of its own
            batch = self._tokenize(inquiry, model, deadline)
            tokenized = time.monotonic()
            embedded = model.engine.embed(batch.token_ids, deadline=deadline, priority=inquiry.priority)
        done = time.monotonic()
        unit_length = model.normalizes if inquiry.unit_length is None else inquiry.unit_length
        weights = [len(ids) for ids in batch.token_ids]
        vectors = merge_chunks(embedded.vectors, batch.lengths, weights, unit_length=unit_length)
        vectors = finish_vectors(vectors, dimensions=dimensions, unit_length=unit_length)
        body = encode(vectors, token_count=batch.token_count)
        seconds = {
            "parse": begin - received,
            "tokenize": tokenized - begin,
            "queue": embedded.queue_s,
            "engine": embedded.engine_s,
            "encode": time.monotonic() - done,
        }
        stages_ms = {name: round(1000 * value, 3) for name, value in seconds.items()}
        return Answer(body, len(inquiry.inputs), sum(weights), stages_ms)

    @contextmanager
    def tokenizer(self, model: str | None) -> Iterator[TextTokenizer]:
        """Hold a slot and hand out the tokenizer of *model*; raises as `embed`."""
        self._check_model_name(model)
        with self._lifecycle.admit() as loaded:
            yield loaded.tokenizer

    def _check_model_name(self, name: str | None) -> None:
        """Refuse a model that is not served here; no name, or an empty one as to vLLM, means the served one."""
        rules = self.rules
        if rules.check_model_name and name and name not in rules.names:
            message = f"this server has no such model; it serves {', '.join(rules.names)}"
            raise ModelNotFoundError(message, param="model")

    def _check(self, inquiry: Inquiry) -> None:
        """Refuse what needs no model to be refused."""
        rules = self.rules
        if not rules.supported:
            message = "embeddings are switched off for this model (EMBED_EMBEDDING_TASK_SUPPORTED=false)"
            raise MissingCapabilityError(message)
        self._check_model_name(inquiry.model)
        count = len(inquiry.inputs)
        if count > rules.max_inputs:
            message = f"the request has {count} inputs, at most {rules.max_inputs} are taken in one"
            raise InvalidRequestError(message, param="input")
        if isinstance(inquiry.inputs, TokenLists | Mixed) and not rules.allow_token_ids:
            message = (
                "this server takes text, not token ids, which another model's tokenizer may have made; "
                "with LangChain set check_embedding_ctx_length=False"
            )
            raise InvalidRequestError(message, param="input")

    def _tokenize(self, inquiry: Inquiry, model: LoadedModel, deadline: float) -> Batch:
        rule = self._length_rule(inquiry, model)
        inputs, tokenizer = inquiry.inputs, model.tokenizer
        if isinstance(inputs, TokenLists):
            return tokenizer.check_token_ids(inputs.token_lists, rule)
        if isinstance(inputs, Chat):
            text = tokenizer.render_chat(inputs.messages, inputs.options)
            return tokenizer.encode_texts([text], rule, add_special_tokens=inputs.add_special_tokens)
        frame = model.prompts.frame(inquiry)
        between = partial(_between, deadline)
        batch = _encode_framed(inputs, frame, tokenizer, rule, between)
        if inquiry.counts_prompt or frame == Frame():
            return batch
        bare = _encode_framed(inputs, Frame(), tokenizer, rule, between, may_be_empty=True)
        return replace(batch, token_count=bare.token_count)

    def _length_rule(self, inquiry: Inquiry, model: LoadedModel) -> LengthRule:
        wanted, side = inquiry.truncate_to, inquiry.truncation_side or model.tokenizer.truncation_side
        if wanted is None:
            return LengthRule(model.max_tokens, self.rules.long_input, side)
        if wanted > model.max_tokens or wanted == 0:
            message = f"truncate_prompt_tokens must be -1 or from 1 to {model.max_tokens}, what this model takes"
            raise InvalidRequestError(message, param="truncate_prompt_tokens")
        return LengthRule(model.max_tokens if wanted == -1 else wanted, "truncate", side)


def _encode_framed(  # noqa: PLR0913 - what encoding needs
    inputs: Texts | Mixed,
    frame: Frame,
    tokenizer: TextTokenizer,
    rule: LengthRule,
    between: Callable[[], None],
    *,
    may_be_empty: bool = False,
) -> Batch:
    if isinstance(inputs, Mixed):
        prompts = frame.apply_to_parts(inputs.prompts)
        return tokenizer.encode_parts(prompts, rule, between=between, may_be_empty=may_be_empty)
    texts, special = frame.apply(inputs.texts), inputs.add_special_tokens
    return tokenizer.encode_texts(texts, rule, add_special_tokens=special, between=between, may_be_empty=may_be_empty)


def _between(deadline: float) -> None:
    """Let others go on between the calls of the tokenizer: a frame may make much of a small request."""
    make_way()
    if time.monotonic() > deadline:
        message = "the texts could not be tokenized in the time that a request may take; send fewer or shorter inputs"
        raise DeadlineExceededError(message)


def _dimensions(inquiry: Inquiry, model: LoadedModel) -> int | None:
    """Return the size to cut to, None where nothing is cut."""
    wanted = inquiry.dimensions
    if wanted is None or wanted == model.dimensions:
        return None
    if not model.can_cut_to(wanted):
        smaller = ", or let the operator allow other sizes (EMBED_MATRYOSHKA_DIMENSIONS)"
        other = smaller if wanted < model.dimensions else ""
        message = (
            f"this model ({model.architecture}, {model.dimensions} dimensions) cannot be cut to {wanted}; sizes it was "
            f"trained for: {model.matryoshka}; ask for all {model.dimensions}{other}"
        )
        raise MissingCapabilityError(message, param="dimensions")
    return wanted
