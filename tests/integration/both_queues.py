"""One engine, two ways to its batches: `python -m tests.integration.both_queues` compares them, case after case.

Each line it reads is a JSON list of a model's folder and changes of its engine options, each line it prints what came
of one. They share a process, for most of a start is importing vLLM.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from handler.settings import Settings, prepare_process
from tests.engine_options import engine_options

TEXTS = 30
LONGEST = 60  # tokens
ABORTED = range(20, 24)


def embed(queue: Any, texts: list[list[int]]) -> tuple[list[int], dict[int, np.ndarray]]:
    """Return the size of each batch, and the vectors by key."""
    sizes: list[int] = []
    vectors: dict[int, np.ndarray] = {}
    for key, token_ids in enumerate(texts):
        queue.add(key, token_ids, 0)
    queue.abort(list(ABORTED))
    while len(vectors) < len(texts) - len(ABORTED):
        finished = queue.step()
        sizes.append(len(finished))
        vectors.update(finished)
    return sizes, vectors


def compare(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the queue that was chosen, both ways' batches and the largest difference of their vectors."""
    from handler.vllm_core import VllmCore, _Scheduled

    core = VllmCore(engine_options(folder, **changes))
    chosen = core._queue  # noqa: SLF001 - what this compares
    random = np.random.default_rng(0)
    texts = [random.integers(5, 60, int(length)).tolist() for length in random.integers(1, LONGEST, TEXTS)]
    sizes, vectors = embed(chosen, texts)
    plain_sizes, plain = embed(_Scheduled(core._core, chosen._params), texts)  # noqa: SLF001
    differences = [float(np.abs(vectors[key] - plain[key]).max()) for key in plain]
    core.close()
    told = {"queue": type(chosen).__name__, "sizes": sizes, "plain_sizes": plain_sizes}
    return {**told, "keys": sorted(vectors), "plain_keys": sorted(plain), "difference": max(differences)}


def main() -> None:
    """Compare what is asked for."""
    prepare_process(Settings())
    from handler.vllm_core import import_vllm

    import_vllm()
    for line in sys.stdin:
        folder, changes = json.loads(line)
        print(json.dumps(compare(Path(folder), changes)))


if __name__ == "__main__":
    main()
