"""Stand-ins for unit tests of one module; nothing that several modules do together is tested with them."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SPECIAL_BEFORE, SPECIAL_AFTER = 1, 2
VOCABULARY = 256 + 3


@dataclass(frozen=True)
class Encoding:
    """What the Rust tokenizer returns for one text."""

    ids: list[int]


class ByteTokenizer:
    """One token per byte (its value + 3), with one special token in front and one behind."""

    def __init__(self, *, special: bool = True) -> None:
        """*special* False: a tokenizer that adds none, as some decoders have."""
        self._special = special

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> list[Encoding]:
        """Tokenize *texts*."""
        return [Encoding(self._ids(text, add_special_tokens=add_special_tokens)) for text in texts]

    def id_to_token(self, token_id: int) -> str | None:
        """Name a token; the last id has none, for 255 is no byte of UTF-8."""
        if token_id == VOCABULARY - 1:
            return None
        return f"<{token_id}>" if token_id < 3 else chr(token_id - 3)

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        """Put bytes together again; special tokens show as the vocabulary writes them."""
        assert not skip_special_tokens
        return "".join(self.id_to_token(token_id) or "" for token_id in ids)

    def to_str(self) -> str:
        """Return what stands for a tokenizer.json."""
        return '{"model": {"type": "bytes"}}'

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        inner = [byte + 3 for byte in text.encode()]
        return [SPECIAL_BEFORE, *inner, SPECIAL_AFTER] if self._special and add_special_tokens else inner


class SumCore:
    """An engine core whose vector of a text is (number of tokens, sum of tokens); it takes one batch per `step`."""

    dimensions = 2
    max_model_len = 64
    dtype = "float32"
    pooling = "MEAN"
    batch_tokens = 1000
    splits_texts = False

    def __init__(self, *, batch_size: int = 4, room: int | None = None, caches: bool = False) -> None:
        """Run at most *batch_size* texts per step; ask for *room* texts, if that is more.

        *caches*: tokens take no room in a batch, as those do that a prefix cache has.
        """
        self._batch_size = batch_size
        self._caches = self.splits_texts = caches
        self.batch_texts = room or batch_size
        self.waiting: dict[int, list[int]] = {}
        self.priorities: dict[int, int] = {}
        self.batches: list[list[int]] = []  # keys of each step
        self.aborted: list[int] = []
        self.gate = threading.Event()  # closed: steps wait
        self.gate.set()
        self.error: BaseException | None = None

    def add(self, key: int, token_ids: list[int], priority: int) -> None:
        """Queue one text."""
        self.waiting[key] = token_ids
        self.priorities[key] = priority

    def abort(self, keys: list[int]) -> None:
        """Forget texts."""
        self.aborted += keys
        for key in keys:
            del self.waiting[key]

    def step(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Run one batch."""
        self.gate.wait()
        if self.error is not None:
            raise self.error
        keys: list[int] = []
        tokens = 0
        for key, token_ids in self.waiting.items():
            tokens += 0 if self._caches else len(token_ids)
            if len(keys) == self._batch_size or (keys and tokens > self.batch_tokens):
                break
            keys.append(key)
        self.batches.append(keys)
        return [(key, self._vector(self.waiting.pop(key))) for key in keys]

    @staticmethod
    def _vector(token_ids: list[int]) -> NDArray[np.float32]:
        return np.array([len(token_ids), sum(token_ids)], dtype=np.float32)
