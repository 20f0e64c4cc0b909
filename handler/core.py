"""What is asked of an engine core; `vllm_core` has vLLM's."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Core(Protocol):
    """Computes vectors of texts, a batch at a time; used by one thread."""

    dimensions: int
    max_model_len: int  # tokens
    dtype: str
    pooling: str
    batch_texts: int  # at most in what it runs at once
    batch_tokens: int
    splits_texts: bool  # between batches, so that one more than there is room for fills a batch

    def add(self, key: int, token_ids: list[int], priority: int) -> None:
        """Queue one text under *key*."""

    def abort(self, keys: list[int]) -> None:
        """Forget texts that are still queued or running."""

    def step(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Run one batch; return (key, raw vector) of each text that is finished."""
