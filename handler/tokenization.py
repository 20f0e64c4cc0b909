"""Texts or token ids to checked token ids: special tokens, lengths, truncation, chunks.

The Rust tokenizer is called outside the engine thread, and releases the interpreter while it works.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from handler.errors import ContextLengthError, InvalidRequestError, StartError
from handler.inquiry import Part
from handler.trust import needs_code

# Calls with several texts share a pool of threads and wait for each other, those of the main loop for those of a large
# request. Pieces of a few milliseconds let others go between. (A call with one text does without the pool.)
_CALL_CHARS = 32 * 1024
_VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.tiktoken", "tekken.json")

Side = Literal["left", "right"]
LongInput = Literal["error", "truncate", "chunk"]


class Backend(Protocol):
    """What is used of `tokenizers.Tokenizer`."""

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> Sequence[Any]:
        """Tokenize *texts*; each result has `.ids`."""

    def id_to_token(self, token_id: int) -> str | None:
        """Return the token of an id as the vocabulary writes it."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """Return the text of *ids*."""

    def to_str(self) -> str:
        """Return the tokenizer as JSON."""


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

    def __init__(
        self,
        backend: Backend,
        *,
        vocab_size: int,
        lower_case: bool = False,
        chat: Any = None,
        file: Path | None = None,
    ) -> None:
        """Wrap *backend*; *chat* renders messages and *file* is its tokenizer.json, None where the model has none."""
        self._backend = backend
        self._vocab_size = vocab_size
        self._lower_case = lower_case
        self._chat = chat
        self._file = file
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
        # Also for one text: `encode` keeps the interpreter meanwhile, and counts characters that nobody asks for.
        return [
            encoding.ids
            for call in _calls(texts)
            for encoding in self._backend.encode_batch_fast(call, add_special_tokens=add_special_tokens)
        ]

    def encode_texts(self, texts: list[str], rule: LengthRule, *, add_special_tokens: bool = True) -> Batch:
        """Tokenize *texts* and bring each to the model's length.

        Raises:
            ContextLengthError: a text is too long and the rule says so.
            InvalidRequestError: a text has no tokens at all.
        """
        token_ids = self._encode(texts, add_special_tokens=add_special_tokens)
        special = (self._prefix, self._suffix) if add_special_tokens else ([], [])
        return _fit(_not_empty(token_ids), rule, special)

    def encode_parts(self, prompts: list[list[Part]], rule: LengthRule) -> Batch:
        """Tokenize the texts in each of *prompts* without special tokens, join them with its ids, then add those.

        Neighbouring texts are one text. Special tokens that the ids already begin or end with are not added again.

        Raises:
            ContextLengthError: a prompt is too long and the rule says so.
            InvalidRequestError: an id is not in the vocabulary, or a prompt has no tokens at all.
        """
        token_ids = [self._enclose(self._join(parts, index)) for index, parts in enumerate(prompts)]
        return _fit(_not_empty(token_ids), rule, (self._prefix, self._suffix))

    def _join(self, parts: list[Part], index: int) -> list[int]:
        joined: list[int] = []
        for is_text, group in groupby(parts, lambda part: isinstance(part, str)):
            if is_text:
                joined += self._encode(["".join(cast("Iterable[str]", group))], add_special_tokens=False)[0]
            else:
                ids = list(chain.from_iterable(cast("Iterable[list[int]]", group)))
                self._check_vocabulary(ids, index)
                joined += ids
        return joined

    def _enclose(self, ids: list[int]) -> list[int]:
        prefix = [] if ids[: len(self._prefix)] == self._prefix else self._prefix
        suffix = [] if ids[len(ids) - len(self._suffix) :] == self._suffix else self._suffix
        return [*prefix, *ids, *suffix]

    def tokens(self, parts: list[Part]) -> list[tuple[int, str]]:
        """Return id and token of *parts*, without special tokens.

        Raises:
            InvalidRequestError: an id is not in the vocabulary.
        """
        return [(token_id, self._backend.id_to_token(token_id) or "") for token_id in self._join(parts, 0)]

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of *token_ids*, special tokens included.

        Raises:
            InvalidRequestError: an id is not in the vocabulary.
        """
        self._check_vocabulary(token_ids, 0)
        return self._backend.decode(token_ids, skip_special_tokens=False)

    def as_json(self) -> bytes:
        """Return the model's tokenizer.json, written anew where its folder has none."""
        return self._file.read_bytes() if self._file else self._backend.to_str().encode()

    def check_token_ids(self, token_lists: list[list[int]], rule: LengthRule) -> Batch:
        """Check ids that a client made itself; they are used as they are.

        Raises:
            ContextLengthError: a list is too long and the rule says so.
            InvalidRequestError: an id is not in the vocabulary.
        """
        for index, ids in enumerate(token_lists):
            self._check_vocabulary(ids, index)
        return _fit(token_lists, rule, ([], []))

    def _check_vocabulary(self, ids: list[int], index: int) -> None:
        if not ids:
            return
        bad = max(ids) if max(ids) >= self._vocab_size else min(ids)
        if not 0 <= bad < self._vocab_size:
            message = f"input {index}: token id {bad} is not in the vocabulary of {self._vocab_size} ids"
            raise InvalidRequestError(message, param="input")

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


def _calls(texts: list[str]) -> Iterator[list[str]]:
    """Cut *texts* into lists of at most `_CALL_CHARS` characters, or of one text that is longer."""
    begin, chars = 0, 0
    for index, text in enumerate(texts):
        chars += len(text)
        if chars > _CALL_CHARS and index > begin:
            yield texts[begin:index]
            begin, chars = index, len(text)
    yield texts[begin:]


def _not_empty(token_ids: list[list[int]]) -> list[list[int]]:
    for index, ids in enumerate(token_ids):
        if not ids:
            message = f"input {index} has no tokens: this model's tokenizer adds none to an empty text"
            raise InvalidRequestError(message, param="input")
    return token_ids


def _fit(token_ids: list[list[int]], rule: LengthRule, special: tuple[list[int], list[int]]) -> Batch:
    """Apply *rule* to every list of ids; the common case, nothing too long, copies nothing."""
    longest = max(map(len, token_ids))
    if longest <= rule.limit:
        return Batch(token_ids, [1] * len(token_ids), sum(map(len, token_ids)))
    if rule.long_input == "error":
        index = next(index for index, ids in enumerate(token_ids) if len(ids) > rule.limit)
        message = (
            f"input {index} has {len(token_ids[index])} tokens, this model takes at most {rule.limit}; "
            "shorten it, send truncate_prompt_tokens=-1 to /embeddings, or let the operator set EMBED_LONG_INPUT"
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
        StartError: the folder has no tokenizer that can be loaded, only a slow one, or one that is code of its own.
    """
    if not any(file for pattern in _VOCABULARY_FILES for file in path.glob(pattern)):
        message = (
            f"the tokenizer in {path} has no vocabulary ({', '.join(_VOCABULARY_FILES)}); download the model again"
        )
        raise StartError(message)  # Transformers would make one without words, and every text the same
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes a second; the server answers while it loads

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as exc:  # Transformers raises anything from OSError to RecursionError here
        if refused := needs_code(path, exc):
            raise refused from exc
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
        file=path / "tokenizer.json" if (path / "tokenizer.json").is_file() else None,
    )


def _first_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[0] if lines else 'no message'}"
