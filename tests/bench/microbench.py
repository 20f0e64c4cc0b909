"""What needs no server: writing the response to 256 texts of 1024 numbers as float JSON, in three ways."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import orjson

from handler.encoding import Wire, encode_response

_TEXTS, _NUMBERS, _ROUNDS = 256, 1024, 15


def float_json_s() -> dict[str, float]:
    """Return the median seconds of ours, of lists through orjson, and of lists through json, taken in turn."""
    vectors = np.random.default_rng(0).standard_normal((_TEXTS, _NUMBERS), dtype=np.float32)
    wire = Wire("float", "float32", "native")

    def as_lists() -> dict[str, object]:
        rows = vectors.tolist()
        data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
        return {"object": "list", "data": data, "model": "model", "usage": {"prompt_tokens": 1, "total_tokens": 1}}

    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: encode_response(vectors, wire, model="model", token_count=1),
        "orjson": lambda: orjson.dumps(as_lists()),
        "json": lambda: json.dumps(as_lists()).encode(),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, write in ways.items():
            begin = time.perf_counter()
            write()
            taken[name].append(time.perf_counter() - begin)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}
