"""The tokenizer of a model's folder, as Transformers reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from handler.chat import ChatTemplate
from handler.errors import StartError
from handler.tokenization import TextTokenizer
from handler.trust import needs_code

_VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.tiktoken", "tekken.json")


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
        lines = str(exc).strip().splitlines() or ["no message"]
        message = f"the tokenizer in {path} cannot be loaded: {type(exc).__name__}: {lines[0]}"
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
        truncation_side="left" if tokenizer.truncation_side == "left" else "right",
        chat=ChatTemplate(tokenizer.apply_chat_template) if tokenizer.chat_template else None,
        file=path / "tokenizer.json" if (path / "tokenizer.json").is_file() else None,
    )
