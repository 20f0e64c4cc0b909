from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from handler.errors import ContextLengthError, InvalidRequestError
from handler.lengths import LengthRule
from handler.tokenization import TextTokenizer
from tests.fakes import SPECIAL_AFTER, SPECIAL_BEFORE, VOCABULARY, ByteTokenizer, Encoding

WIDE = LengthRule(100)


def tokenizer(*, special: bool = True, **options: Any) -> TextTokenizer:
    """Build a tokenizer of bytes."""
    return TextTokenizer(ByteTokenizer(special=special), vocab_size=VOCABULARY, **options)


def ids(text: str) -> list[int]:
    """Return the ids of *text* with its special tokens."""
    return [SPECIAL_BEFORE, *(byte + 3 for byte in text.encode()), SPECIAL_AFTER]


def recorded() -> tuple[TextTokenizer, list[list[int]]]:
    """Build a tokenizer of bytes; the lengths of the texts in each of its calls go into the list."""
    seen: list[list[int]] = []

    class Recorded(ByteTokenizer):
        def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> Any:
            seen.append([len(text) for text in texts])
            return super().encode_batch_fast(texts, add_special_tokens=add_special_tokens)

    made = TextTokenizer(Recorded(), vocab_size=VOCABULARY)
    seen.clear()  # the special tokens have been looked up
    return made, seen


def test_texts_become_ids_in_order() -> None:
    """One list per text, special tokens around, all counted."""
    batch = tokenizer().encode_texts(["ab", "c"], WIDE)
    assert batch.token_ids == [ids("ab"), ids("c")]
    assert batch.lengths == [1, 1]
    assert batch.token_count == 7


@pytest.mark.parametrize(
    ("lengths", "calls"),
    [
        ([5], [[5]]),
        ([1_000_000], [[1_000_000]]),
        ([10, 20, 30], [[10, 20, 30]]),
        ([16_384, 16_384, 1], [[16_384, 16_384], [1]]),
        ([1, 40_000, 1, 2], [[1], [40_000], [1, 2]]),
        ([30_000] * 3, [[30_000]] * 3),
    ],
)
def test_a_large_request_lets_others_work(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], calls: list[list[int]]
) -> None:
    """It is tokenized in calls of bounded size, for calls wait for each other; the ids are the same, in order."""
    monkeypatch.setattr("handler.tokenization._LONG_CHARS", 2_000_000)
    tokenizer, seen = recorded()
    texts = [chr(ord("a") + index) * length for index, length in enumerate(lengths)]
    assert tokenizer.encode_texts(texts, LengthRule(2_000_000)).token_ids == [ids(text) for text in texts]
    assert seen == calls


def test_between_two_calls_others_may_go_on_and_the_request_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never before the first call or behind the last; joined prompts are a call each."""
    monkeypatch.setattr("handler.tokenization._CALL_CHARS", 2)
    told: list[str] = []

    def texts(count: int) -> Iterator[str]:
        for number in range(count):
            told.append(f"text {number}")
            yield "ab"

    tokenizer().encode_texts(texts(3), WIDE, between=lambda: told.append("between"))
    assert told == ["text 0", "text 1", "text 2", "between", "between"]
    tokenizer().encode_parts([["a"], ["b"]], WIDE, between=lambda: told.append("joined"))
    assert told[5:] == ["joined"]

    def late() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        tokenizer().encode_texts(texts(1000), WIDE, between=late)
    assert len(told) < 10


def test_behind_a_text_that_is_too_long_nothing_is_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long instruction in front of thousands of texts costs no more than the first of them."""
    monkeypatch.setattr("handler.tokenization._CALL_CHARS", 1)
    texts = iter(["ok", "a longer one", *["x"] * 1000])
    with pytest.raises(ContextLengthError, match="input 1 has 14 tokens"):
        tokenizer().encode_texts(texts, LengthRule(6))
    assert len(list(texts)) > 990


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(("side", "kept"), [("right", "0001 0002"), ("left", "9998 9999")])
def test_of_a_long_text_that_is_cut_only_a_part_is_tokenized(
    monkeypatch: pytest.MonkeyPatch, side: Any, kept: str, *, special: bool
) -> None:
    """The ids are those of cutting the whole; a word in which the part ends is left out."""
    monkeypatch.setattr("handler.tokenization._LONG_CHARS", 4002)
    tokenizer, seen = recorded()
    text = " ".join(f"{number:04}" for number in range(1, 10_000))
    rule = LengthRule(11 if special else 9, "truncate", side)
    batch = tokenizer.encode_texts([text, "ab"], rule, add_special_tokens=special)
    assert batch.token_ids == [ids(kept) if special else ids(kept)[1:-1], ids("ab") if special else ids("ab")[1:-1]]
    assert seen == [[4000], [2]]


def test_a_long_text_that_is_too_long_is_not_tokenized_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the number that was seen."""
    monkeypatch.setattr("handler.tokenization._LONG_CHARS", 4002)
    tokenizer, seen = recorded()
    with pytest.raises(
        ContextLengthError, match=r"input 1 has at least 4002 tokens, this model's maximum context length is 6 tokens"
    ):
        tokenizer.encode_texts(["ab", "word " * 1_000_000], LengthRule(6))
    assert seen == [[2], [4000]]


@pytest.mark.parametrize("text", ["x" * 50_000, "a b " + "x" * 50_000])
def test_a_long_text_without_words_is_tokenized_whole(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """It may be one token; who knows."""
    monkeypatch.setattr("handler.tokenization._LONG_CHARS", 4000)
    tokenizer, seen = recorded()
    assert tokenizer.encode_texts([text], LengthRule(6, "truncate")).token_ids == [ids(text[:4])]
    assert seen[-1] == [len(text)]
    assert sum(map(sum, seen[:-1])) < len(text) / 2


def test_a_panic_of_the_tokenizer_fails_one_request() -> None:
    """In Python it is no Exception, which nobody would catch; what it says may quote the text."""

    class PanicException(BaseException):  # by the name that pyo3 gives it
        pass

    class Panicking(ByteTokenizer):
        def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> list[Encoding]:
            if texts == ["bad"]:
                raise PanicException(texts[0])
            return super().encode_batch_fast(texts, add_special_tokens=add_special_tokens)

    with pytest.raises(RuntimeError, match=r"^the tokenizer panicked$"):
        TextTokenizer(Panicking(), vocab_size=VOCABULARY).encode_texts(["bad"], LengthRule(6))


def test_long_texts_take_turns_and_short_ones_go_between() -> None:
    """Each takes a hundred times its size of memory."""
    inside, most = threading.Semaphore(0), []
    running: list[int] = []
    go_on = threading.Event()

    class Slow(ByteTokenizer):
        def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> Any:
            if len(texts[0]) > 1000:
                running.append(1)
                most.append(len(running))
                inside.release()
                assert go_on.wait(10)
                running.pop()
            return super().encode_batch_fast(texts, add_special_tokens=add_special_tokens)

    shared, rule = TextTokenizer(Slow(), vocab_size=VOCABULARY), LengthRule(8, "truncate")
    with ThreadPoolExecutor(4) as executor:
        answers = [executor.submit(shared.encode_texts, ["x" * 300_000], rule) for _ in range(4)]
        assert inside.acquire(timeout=10)
        assert shared.encode_texts(["ab"], rule).token_ids == [ids("ab")]
        go_on.set()
        assert [answer.result(10).token_ids for answer in answers] == [[ids("x" * 6)]] * 4
    assert most == [1] * 4


def test_special_tokens_can_be_left_out() -> None:
    """`add_special_tokens: false` embeds the bare text."""
    assert tokenizer().encode_texts(["ab"], WIDE, add_special_tokens=False).token_ids == [ids("ab")[1:-1]]


def test_a_text_that_is_too_long_names_both_numbers() -> None:
    """The message tells index, length and limit, and no text."""
    with pytest.raises(
        ContextLengthError, match=r"input 1 has 7 tokens, this model's maximum context length is 6 tokens"
    ) as caught:
        tokenizer().encode_texts(["ok", "LONGX"], LengthRule(6))
    assert "LONGX" not in caught.value.message


@pytest.mark.parametrize(("side", "kept"), [("right", "abcd"), ("left", "efgh")])
def test_truncation_keeps_the_special_tokens(side: Any, kept: str) -> None:
    """A last-token model would pool the wrong token without its end mark."""
    batch = tokenizer().encode_texts(["abcdefgh"], LengthRule(6, "truncate", side))
    assert batch.token_ids == [ids(kept)]


@pytest.mark.parametrize(
    ("limit", "side", "kept"),
    [(2, "right", [1, 2]), (2, "left", [1, 2]), (1, "right", [1]), (1, "left", [2])],
)
def test_where_only_special_tokens_fit_they_are_what_is_kept(limit: int, side: Any, kept: list[int]) -> None:
    """As the tokenizers' own truncation leaves them."""
    assert tokenizer().encode_texts(["abc"], LengthRule(limit, "truncate", side)).token_ids == [kept]


def test_chunks_are_windows_with_their_own_special_tokens() -> None:
    """Every window is a text of its own; `lengths` tells which windows belong together."""
    batch = tokenizer().encode_texts(["x", "abcdefghij"], LengthRule(6, "chunk"))
    assert batch.token_ids == [ids("x"), ids("abcd"), ids("efgh"), ids("ij")]
    assert batch.lengths == [1, 3]


def test_an_empty_text_is_embedded_where_special_tokens_are_added() -> None:
    """A popular client sends "" for blank texts and needs a vector back."""
    assert tokenizer().encode_texts([""], WIDE).token_ids == [[SPECIAL_BEFORE, SPECIAL_AFTER]]


def test_an_empty_text_without_any_token_is_refused_by_index() -> None:
    """There is nothing to compute a vector from."""
    with pytest.raises(InvalidRequestError, match="input 1 has no tokens"):
        tokenizer(special=False).encode_texts(["a", ""], WIDE)


def test_lower_case_is_applied_before_tokenizing() -> None:
    """sentence-transformers' do_lower_case lives outside tokenizer.json."""
    assert tokenizer(lower_case=True).encode_texts(["AbÄ"], WIDE).token_ids == [ids("abä")]


def test_token_ids_are_used_as_they_are() -> None:
    """No special token is added to ids."""
    assert tokenizer().check_token_ids([[5, 6]], WIDE).token_ids == [[5, 6]]


@pytest.mark.parametrize("bad", [-1, VOCABULARY, 10**30])
def test_an_id_outside_the_vocabulary_is_named(bad: int) -> None:
    """The engine would read past its table otherwise."""
    with pytest.raises(InvalidRequestError, match=f"input 1: token id {bad} is not in the vocabulary.* check_embed"):
        tokenizer().check_token_ids([[5], [6, bad, 7]], WIDE)


def test_messages_without_a_chat_template_are_refused() -> None:
    """The message says what to send instead."""
    with pytest.raises(InvalidRequestError, match="no chat template"):
        tokenizer().render_chat([{"role": "user", "content": ["x"]}], {})


def test_texts_and_ids_are_joined_between_special_tokens() -> None:
    """Texts are tokenized without special tokens, neighbours as one text; ids are used as they are."""
    batch = tokenizer().encode_parts([["a", "b", [70, 71], [72], "c"], ["d"]], WIDE)
    assert batch.token_ids == [[1, *ids("ab")[1:-1], 70, 71, 72, *ids("c")[1:-1], 2], ids("d")]
    assert (batch.lengths, batch.token_count) == ([1, 1], 11)


@pytest.mark.parametrize("parts", [[[1, 70, 2]], [[70]], [[1], [70]], [[70, 2]]])
def test_special_tokens_that_a_client_sends_are_not_doubled(parts: list[Any]) -> None:
    """Its tokenizer may have added them or not."""
    assert tokenizer().encode_parts([parts], WIDE).token_ids == [[1, 70, 2]]


def test_a_joined_prompt_obeys_length_and_vocabulary() -> None:
    """As any other input."""
    assert tokenizer().encode_parts([["abcdefgh", [70]]], LengthRule(6, "truncate")).token_ids == [ids("abcd")]
    with pytest.raises(ContextLengthError, match="input 0 has 7 tokens"):
        tokenizer().encode_parts([["abcd", [70]]], LengthRule(6))
    with pytest.raises(InvalidRequestError, match="input 1: token id 999"):
        tokenizer().encode_parts([["a"], [[999]]], WIDE)
    with pytest.raises(InvalidRequestError, match="input 0 has no tokens"):
        tokenizer(special=False).encode_parts([["", []]], WIDE)


def test_tokens_are_told_without_special_ones() -> None:
    """So that a client can send them back as part of a prompt; a hole in the vocabulary is an empty text."""
    assert tokenizer().tokens(["ab", [70, VOCABULARY - 1]]) == [(100, "a"), (101, "b"), (70, "C"), (VOCABULARY - 1, "")]
    assert tokenizer().tokens([""]) == []


def test_ids_become_text_again() -> None:
    """All of them, and only those of the vocabulary."""
    assert tokenizer().decode([1, 100, 101, 2]) == "<1>ab<2>"
    assert tokenizer().decode([]) == ""
    with pytest.raises(InvalidRequestError, match="token id -1"):
        tokenizer().decode([100, -1])


def test_the_tokenizers_json_is_the_models_file(tmp_path: Path) -> None:
    """Byte for byte; a folder without one gets what the tokenizer writes of itself."""
    file = tmp_path / "tokenizer.json"
    file.write_bytes(b'{"version": "1.0"}')
    made = tokenizer(file=file)
    file.unlink()  # a folder of a model from S3 may get its next version
    assert made.as_json() == b'{"version": "1.0"}'
    assert tokenizer().as_json() == b'{"model": {"type": "bytes"}}'
