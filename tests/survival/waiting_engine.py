"""The server with an engine that only waits, as one on a GPU leaves the cores to the rest: `python -m` serves it."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

import handler.vllm_core
from handler.__main__ import serve
from handler.engine_args import EngineOptions

_STEP_S = 0.003  # about what a GPU takes for 64 short texts and a small model
_MOST_TEXTS = 256  # in one step


class WaitingCore:
    """Gives every text the same vector after a while."""

    dimensions = 384
    max_model_len = 256
    dtype = "float32"
    pooling = "MEAN"
    batch_texts = _MOST_TEXTS
    batch_tokens = _MOST_TEXTS * max_model_len
    splits_texts = False

    def __init__(self, options: EngineOptions) -> None:
        """Have no texts; *options* change nothing."""
        self._keys: list[int] = []
        self._vector = np.full(self.dimensions, self.dimensions**-0.5, dtype=np.float32)

    def add(self, key: int, token_ids: list[int], priority: int) -> None:
        """Queue one text."""
        self._keys.append(key)

    def abort(self, keys: list[int]) -> None:
        """Forget texts."""
        self._keys = [key for key in self._keys if key not in keys]

    def step(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Wait for one batch."""
        time.sleep(_STEP_S)
        batch, self._keys = self._keys[:_MOST_TEXTS], self._keys[_MOST_TEXTS:]
        return [(key, self._vector) for key in batch]

    def close(self) -> None:
        """Hold nothing."""


if __name__ == "__main__":
    handler.vllm_core.VllmCore = WaitingCore  # type: ignore[misc,assignment]  # the worker is forked from this process
    serve()
