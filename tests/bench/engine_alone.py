"""The ceiling: vLLM's own `LLM.embed` in one process, without HTTP. `python -m tests.bench.engine_alone MODEL TOKENS`.

Prints texts/s for batches of 32, all in the engine at once.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time

from tests.bench.wrk import WORDS

_BATCH = 32
_SECONDS = 6.0


def main() -> None:
    """Embed batches of new texts for some seconds, after a warm-up."""
    os.environ.update(VLLM_LOGGING_LEVEL="ERROR", VLLM_ENABLE_V1_MULTIPROCESSING="0", HF_HUB_OFFLINE="1")
    from vllm import LLM

    model, tokens = sys.argv[1], int(sys.argv[2])
    llm = LLM(model, runner="pooling", dtype="float32", enforce_eager=True, kv_cache_memory_bytes=1 << 30)
    chance = random.Random(os.getpid())
    done, begin = 0, time.monotonic()
    for count in range(10_000):
        texts = [" ".join([str(chance.random())[2:8], *chance.choices(WORDS, k=tokens - 1)]) for _ in range(_BATCH)]
        llm.embed(texts, use_tqdm=False)
        if count == 1:
            begin = time.monotonic()
        elif count > 1:
            done += _BATCH
            if time.monotonic() - begin > _SECONDS:
                break
    print(json.dumps({"texts_per_s": done / (time.monotonic() - begin)}))


if __name__ == "__main__":
    main()
