"""Texts or token ids to checked token ids: vocabulary, special tokens, and calls of bounded size.

The Rust tokenizer is called outside the engine thread, and releases the interpreter while it works.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Protocol, cast

from handler.allocator import Trimmer
from handler.chat import ChatTemplate
from handler.errors import InvalidRequestError
from handler.inquiry import Part
from handler.lengths import Batch, LengthRule, Side, fit, too_long

# Calls with several texts share a pool of threads and wait for each other, those of the main loop for those of a large
# request. Pieces of a few milliseconds let others go between. (A call with one text does without the pool.)
_CALL_CHARS = 32 * 1024
# A text takes up to 240 bytes of memory for each of its characters, and the interpreter for a while when the ids become
# Python's. Of one that is longer than this no more is tokenized than shows that it is too long; such wholes take turns.
_LONG_CHARS = 256 * 1024
_FAR_TOKENS = 1000  # from where a text was cut in two, its tokens are those of the whole text
_SPACES = " \t\r\n"  # between words for every tokenizer
_MOST_CHARS = 2**20  # of a prompt whose tokens a client wants to see, all of them
_WHOLE = LengthRule(sys.maxsize, "chunk")  # of text that is to be shown


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


def _go_on() -> None:
    """Do nothing between two calls of the tokenizer."""


class TextTokenizer:
    """The tokenizer of one model."""

    def __init__(  # noqa: PLR0913 - what is to be known of a model's tokenizer
        self,
        backend: Backend,
        *,
        vocab_size: int,
        lower_case: bool = False,
        truncation_side: Side = "right",
        chat: ChatTemplate | None = None,
        file: Path | None = None,
    ) -> None:
        """Wrap *backend*; *chat* renders messages and *file* is its tokenizer.json, None where the model has none."""
        self._backend = backend
        self._vocab_size = vocab_size
        self._lower_case = lower_case
        self.truncation_side = truncation_side  # where a request says nothing
        self._chat = chat
        self._json = file.read_bytes() if file else None  # now: the file may belong to another model later
        self._turn = threading.Lock()  # of long texts
        self._memory = Trimmer()
        self._prefix, self._suffix = self._special_tokens()

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """Find what the tokenizer puts around a text, so that cutting a text keeps it."""
        bare = self._encode("a", add_special_tokens=False)
        full = self._encode("a", add_special_tokens=True)
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start], full[start + len(bare) :]
        return [], []

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Tokenize all of *text*."""
        if len(text) <= _LONG_CHARS:
            return self._call([text], add_special_tokens=add_special_tokens)[0]
        with self._turn:
            token_ids = self._call([text], add_special_tokens=add_special_tokens)[0]
            self._memory.look()  # the engine, which looks otherwise, may get nothing of this request
        return token_ids

    def _call(self, texts: list[str], *, add_special_tokens: bool) -> list[list[int]]:
        if self._lower_case:
            texts = [text.lower() for text in texts]
        # Also for one text: `encode` keeps the interpreter meanwhile, and counts characters that nobody asks for.
        try:
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        except BaseException as exc:
            if type(exc).__name__ != "PanicException":
                raise
            message = "the tokenizer panicked"  # and what it says may quote the text
            raise RuntimeError(message) from None  # Rust's panics are no Exception, and would end the main loop
        return [encoding.ids for encoding in encodings]

    def _encode_text(self, text: str, rule: LengthRule, index: int, *, add_special_tokens: bool) -> list[int]:
        """Tokenize as much of *text* as *rule* asks for, the one of that *index* in its request."""
        chars = _LONG_CHARS
        while chars < len(text) and rule.long_input != "chunk":
            part = _whole_words(text, chars, rule.side)
            token_ids = self._encode(part, add_special_tokens=add_special_tokens)
            if len(token_ids) > rule.limit + _FAR_TOKENS:
                if rule.long_input == "error":
                    raise too_long(index, f"at least {len(token_ids)}", rule)
                return token_ids
            chars *= 4  # few tokens for so many characters: words that the vocabulary does not know, white space
        return self._encode(text, add_special_tokens=add_special_tokens)

    def encode_texts(
        self,
        texts: Iterable[str],
        rule: LengthRule,
        *,
        add_special_tokens: bool = True,
        between: Callable[[], None] = _go_on,
        may_be_empty: bool = False,
    ) -> Batch:
        """Tokenize *texts* and bring each to the model's length.

        *between* is called between two calls of the tokenizer; what it raises ends this.

        Raises:
            ContextLengthError: a text is too long and the rule says so; those behind it are not tokenized.
            InvalidRequestError: a text has no tokens at all, unless it *may_be_empty*.
        """

        def groups() -> Iterator[list[list[int]]]:
            done = 0
            for call in _calls(texts):
                if done:
                    between()
                if len(call) == 1:
                    token_ids = [self._encode_text(call[0], rule, done, add_special_tokens=add_special_tokens)]
                else:
                    token_ids = self._call(call, add_special_tokens=add_special_tokens)
                yield token_ids if may_be_empty else _not_empty(token_ids, first=done)
                done += len(call)

        return fit(groups(), rule, (self._prefix, self._suffix) if add_special_tokens else ([], []))

    def encode_parts(
        self,
        prompts: Iterable[list[Part]],
        rule: LengthRule,
        *,
        between: Callable[[], None] = _go_on,
        may_be_empty: bool = False,
    ) -> Batch:
        """Tokenize the texts in each of *prompts* without special tokens, join them with its ids, then add those.

        Neighbouring texts are one text. Special tokens that the ids already begin or end with are not added again.
        *between* is called between two prompts; what it raises ends this.

        Raises:
            ContextLengthError: a prompt is too long and the rule says so; those behind it are not tokenized.
            InvalidRequestError: an id is not in the vocabulary, or a prompt has no tokens at all, unless it
                *may_be_empty*.
        """

        def groups() -> Iterator[list[list[int]]]:
            for index, parts in enumerate(prompts):
                if index:
                    between()
                token_ids = [self._enclose(self._join(parts, rule, index))]
                yield token_ids if may_be_empty else _not_empty(token_ids, first=index)

        return fit(groups(), rule, (self._prefix, self._suffix))

    def _join(self, parts: list[Part], rule: LengthRule, index: int) -> list[int]:
        joined: list[int] = []
        for is_text, group in groupby(parts, lambda part: isinstance(part, str)):
            if is_text:
                text = "".join(cast("Iterable[str]", group))
                joined += self._encode_text(text, rule, index, add_special_tokens=False)
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
            InvalidRequestError: an id is not in the vocabulary, or there is more text than can be shown.
        """
        if sum(len(part) for part in parts if isinstance(part, str)) > _MOST_CHARS:
            message = f"at most {_MOST_CHARS} characters can be tokenized to be shown; send less text"
            raise InvalidRequestError(message, param="prompt")
        return [(token_id, self._backend.id_to_token(token_id) or "") for token_id in self._join(parts, _WHOLE, 0)]

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of *token_ids*, special tokens included.

        Raises:
            InvalidRequestError: an id is not in the vocabulary.
        """
        self._check_vocabulary(token_ids, 0)
        return self._backend.decode(token_ids, skip_special_tokens=False)

    def as_json(self) -> bytes:
        """Return the model's tokenizer.json, written anew where its folder has none."""
        return self._backend.to_str().encode() if self._json is None else self._json

    def check_token_ids(self, token_lists: list[list[int]], rule: LengthRule) -> Batch:
        """Check ids that a client made itself; they are used as they are.

        Raises:
            ContextLengthError: a list is too long and the rule says so.
            InvalidRequestError: an id is not in the vocabulary.
        """
        for index, ids in enumerate(token_lists):
            self._check_vocabulary(ids, index)
        return fit([token_lists], rule)

    def _check_vocabulary(self, ids: list[int], index: int) -> None:
        if not ids:
            return
        bad = max(ids) if max(ids) >= self._vocab_size else min(ids)
        if not 0 <= bad < self._vocab_size:
            message = (
                f"input {index}: token id {bad} is not in the vocabulary of {self._vocab_size} ids; ids must come from "
                "this model's own tokenizer, else send text (with LangChain set check_embedding_ctx_length=False)"
            )
            raise InvalidRequestError(message, param="input")

    def render_chat(self, messages: list[dict[str, Any]], options: dict[str, Any]) -> str:
        """Render chat messages by the model's template; see `ChatTemplate`.

        Raises:
            InvalidRequestError: the model has no template, or the template refuses these messages.
        """
        if self._chat is None:
            message = "this model has no chat template; send input instead of messages"
            raise InvalidRequestError(message, param="messages")
        return self._chat.render(messages, options)


def _calls(texts: Iterable[str]) -> Iterator[list[str]]:
    """Cut *texts* into lists of at most `_CALL_CHARS` characters, or of one text that is longer."""
    call: list[str] = []
    chars = 0
    for text in texts:
        chars += len(text)
        if chars > _CALL_CHARS and call:
            yield call
            call, chars = [], len(text)
        call.append(text)
    yield call


def _whole_words(text: str, chars: int, side: Side) -> str:
    """Return the whole words in the first *chars* characters of *text*, in the last where *side* is left."""
    if side == "right":
        return text[: max(text.rfind(space, 0, chars) for space in _SPACES) + 1]
    begins = [text.find(space, len(text) - chars) for space in _SPACES]
    return text[min((begin for begin in begins if begin >= 0), default=len(text)) :]


def _not_empty(token_ids: list[list[int]], *, first: int) -> list[list[int]]:
    if not all(token_ids):
        index = first + token_ids.index([])
        message = f"input {index} has no tokens: this model's tokenizer adds none to an empty text"
        raise InvalidRequestError(message, param="input")
    return token_ids
