from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from handler.errors import InvalidRequestError, StartError
from handler.lengths import LengthRule
from handler.tokenization import TextTokenizer
from handler.tokenizer_files import load_tokenizer

WORDS = ["a", "b", "c", "d", "[PAD]"]
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def folder(path: Path, **options: str) -> Path:
    """Write a tokenizer of a few words, which cuts and pads to two, to *path*."""
    made = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="a"))  # noqa: S106 - a word
    made.pre_tokenizer = Whitespace()
    made.enable_truncation(2)
    made.enable_padding(length=2, pad_id=4)
    PreTrainedTokenizerFast(tokenizer_object=made, **options).save_pretrained(path)
    return path


def load(path: Path, *, lower_case: bool = False, vocab_size: int | None = None) -> TextTokenizer:
    """Load what is at *path*."""
    return load_tokenizer(path, lower_case=lower_case, vocab_size=vocab_size, trust_remote_code=False)


def test_a_folder_gives_its_tokenizer(tmp_path: Path) -> None:
    """Without the file's own cutting and padding, and without what the folder does not have."""
    tokenizer = load(folder(tmp_path))
    assert tokenizer.encode_texts(["a b c", "d"], LengthRule(8)).token_ids == [[0, 1, 2], [3]]
    assert tokenizer.truncation_side == "right"
    assert tokenizer.as_json() == (tmp_path / "tokenizer.json").read_bytes()
    with pytest.raises(InvalidRequestError, match="no chat template"):
        tokenizer.render_chat([{"role": "user", "content": ["a"]}], {})


def test_what_a_folder_says_besides_is_heard(tmp_path: Path) -> None:
    """Which side is cut, the chat template, and that sentence-transformers makes texts lower case."""
    tokenizer = load(folder(tmp_path, truncation_side="left", chat_template=TEMPLATE), lower_case=True)
    assert tokenizer.encode_texts(["B C"], LengthRule(8)).token_ids == [[1, 2]]
    assert tokenizer.truncation_side == "left"
    assert tokenizer.render_chat([{"role": "user", "content": ["a"]}], {}) == "a"


@pytest.mark.parametrize(("vocab_size", "last"), [(None, 4), (9, 4), (3, 2)])
def test_ids_end_where_the_smaller_vocabulary_does(tmp_path: Path, vocab_size: int | None, last: int) -> None:
    """The tokenizer's or the model's, which may have been padded to a round number."""
    tokenizer = load(folder(tmp_path), vocab_size=vocab_size)
    assert tokenizer.check_token_ids([[last]], LengthRule(8)).token_ids == [[last]]
    with pytest.raises(InvalidRequestError, match=f"of {last + 1} ids"):
        tokenizer.check_token_ids([[last + 1]], LengthRule(8))


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    """Transformers would make a tokenizer without words, to which all texts are the same."""
    (folder(tmp_path) / "tokenizer.json").unlink()
    with pytest.raises(StartError, match="has no vocabulary"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["vocab.txt", "vocab.json", "spiece.model", "qwen.tiktoken", "tekken.json"])
def test_a_vocabulary_of_any_form_is_left_to_transformers(tmp_path: Path, name: str) -> None:
    """What is wrong with it, here that it says nothing of its kind, is told by who knows them all."""
    (tmp_path / name).write_text("{")
    with pytest.raises(StartError, match="cannot be loaded"):
        load(tmp_path)


def test_a_tokenizer_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    """In one line, with the reason."""
    (folder(tmp_path) / "tokenizer.json").write_text("{")
    with pytest.raises(StartError, match=r"^the tokenizer in .* cannot be loaded: \w+: [^\n]+$"):
        load(tmp_path)


def test_a_tokenizer_in_python_is_refused(tmp_path: Path) -> None:
    """It would hold the interpreter while it works."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CTRLTokenizer"}))
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "<unk>": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(StartError, match=r"\(CTRLTokenizer\) has no fast form"):
        load(tmp_path)
