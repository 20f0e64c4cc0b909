"""Texts or token ids to checked token ids: special tokens, lengths, truncation, chunks.

The Rust tokenizer is called once per request, outside the engine thread, and releases the interpreter while it works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from handler.errors import ContextLengthError, InvalidRequestError, StartError

Side = Literal["left", "right"]
LongInput = Literal["error", "truncate", "chunk"]


class Backend(Protocol):
    """What is used of `tokenizers.Tokenizer`."""

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> Sequence[Any]:
        """Tokenize *texts*; each result has `.ids`."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The token ids of one request, ready for the engine."""

    token_ids: list[list[int]]  # one list per engine text
    lengths: list[int]  # engine texts per input: 1, or more where a long input was cut into chunks
    token_count: int


@dataclass(frozen=True, slots=True)
class LengthRule:
    """What happens to an input of more than *limit* tokens."""

    limit: int
    long_input: LongInput = "error"
    side: Side = "right"


class TextTokenizer:
    """The tokenizer of one model."""

    def __init__(self, backend: Backend, *, vocab_size: int, lower_case: bool = False, chat: Any = None) -> None:
        """Wrap *backend*; *chat* renders messages (None: the model has no chat template)."""
        self._backend = backend
        self._vocab_size = vocab_size
        self._lower_case = lower_case
        self._chat = chat
        self._prefix, self._suffix = self._special_tokens()

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """Find what the tokenizer puts around a text, so that cutting a text keeps it."""
        bare = self._encode(["a"], add_special_tokens=False)[0]
        full = self._encode(["a"], add_special_tokens=True)[0]
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        return [], []

    def _encode(self, texts: list[str], *, add_special_tokens: bool) -> list[list[int]]:
        if self._lower_case:
            texts = [text.lower() for text in texts]
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in encodings]

    def encode_texts(self, texts: list[str], rule: LengthRule, *, add_special_tokens: bool = True) -> Batch:
        """Tokenize *texts* and bring each to the model's length.

        Raises:
            ContextLengthError: a text is too long and the rule says so.
            InvalidRequestError: a text has no tokens at all.
        """
        token_ids = self._encode(texts, add_special_tokens=add_special_tokens)
        for index, ids in enumerate(token_ids):
            if not ids:
                message = f"input {index} has no tokens: this model's tokenizer adds none to an empty text"
                raise InvalidRequestError(message, param="input")
        special = (self._prefix, self._suffix) if add_special_tokens else ([], [])
        return _fit(token_ids, rule, special)

    def check_token_ids(self, token_lists: list[list[int]], rule: LengthRule) -> Batch:
        """Check ids that a client made itself; they are used as they are.

        Raises:
            ContextLengthError: a list is too long and the rule says so.
            InvalidRequestError: an id is not in the vocabulary.
        """
        for index, ids in enumerate(token_lists):
            bad = max(ids) if max(ids) >= self._vocab_size else min(ids)
            if not 0 <= bad < self._vocab_size:
                message = f"input {index}: token id {bad} is not in the vocabulary of {self._vocab_size} ids"
                raise InvalidRequestError(message, param="input")
        return _fit(token_lists, rule, ([], []))

    def render_chat(
        self, messages: list[dict[str, str]], *, add_generation_prompt: bool, template_kwargs: dict[str, Any]
    ) -> str:
        """Render chat messages by the model's template.

        Raises:
            InvalidRequestError: the model has no template, or the template refuses these messages.
        """
        if self._chat is None:
            message = "this model has no chat template; send input instead of messages"
            raise InvalidRequestError(message, param="messages")
        allowed = {key: value for key, value in template_kwargs.items() if key not in ("tokenize", "chat_template")}
        try:
            return str(self._chat(messages, add_generation_prompt=add_generation_prompt, tokenize=False, **allowed))
        except Exception as exc:  # a template is the model's own program and may raise anything
            message = "the model's chat template refuses these messages"
            raise InvalidRequestError(message, param="messages") from exc


def _fit(token_ids: list[list[int]], rule: LengthRule, special: tuple[list[int], list[int]]) -> Batch:
    """Apply *rule* to every list of ids; the common case, nothing too long, copies nothing."""
    longest = max(map(len, token_ids))
    if longest <= rule.limit:
        return Batch(token_ids, [1] * len(token_ids), sum(map(len, token_ids)))
    if rule.long_input == "error":
        index = next(index for index, ids in enumerate(token_ids) if len(ids) > rule.limit)
        message = (
            f"input {index} has {len(token_ids[index])} tokens, this model takes at most {rule.limit}; "
            f"shorten it or send truncate_prompt_tokens=-1"
        )
        raise ContextLengthError(message, param="input")
    fitted: list[list[int]] = []
    lengths = []
    for ids in token_ids:
        pieces = [ids] if len(ids) <= rule.limit else _cut(ids, rule, special)
        fitted += pieces
        lengths.append(len(pieces))
    return Batch(fitted, lengths, sum(map(len, fitted)))


def _cut(ids: list[int], rule: LengthRule, special: tuple[list[int], list[int]]) -> list[list[int]]:
    """Cut *ids* to windows of the limit, each with the special tokens that were around the whole."""
    prefix, suffix = special
    size = rule.limit - len(prefix) - len(suffix)
    if size < 1:
        return [ids[: rule.limit]]
    inner = ids[len(prefix) : len(ids) - len(suffix)]
    if rule.long_input == "truncate":
        windows = [inner[:size] if rule.side == "right" else inner[-size:]]
    else:
        windows = [inner[start : start + size] for start in range(0, len(inner), size)]
    return [prefix + window + suffix for window in windows]


def load_tokenizer(path: Path, *, lower_case: bool, vocab_size: int | None, trust_remote_code: bool) -> TextTokenizer:
    """Load the tokenizer of the model folder at *path*.

    It goes through Transformers' AutoTokenizer, because add_eos_token and its like live outside tokenizer.json; that
    file's own truncation and padding are switched off.

    Raises:
        StartError: the folder has no tokenizer that can be loaded, or only a slow one.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes a second; the server answers while it loads

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as exc:  # Transformers raises anything from OSError to RecursionError here
        message = f"the tokenizer in {path} cannot be loaded: {_first_line(exc)}"
        raise StartError(message) from exc
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        message = f"the tokenizer in {path} ({type(tokenizer).__name__}) has no fast form; save it with tokenizer.json"
        raise StartError(message)
    backend.no_truncation()
    backend.no_padding()
    known = max(tokenizer.get_vocab().values()) + 1
    return TextTokenizer(
        backend,
        vocab_size=min(known, vocab_size or known),
        lower_case=lower_case,
        chat=tokenizer.apply_chat_template if tokenizer.chat_template else None,
    )


def _first_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[0] if lines else 'no message'}"
