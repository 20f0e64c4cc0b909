"""The ceiling: `LLM.embed` in one process, without HTTP, tokenizer or JSON; a plan comes on standard input.

A call holds more texts than the engine takes at once, so that its batches are always full.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

_CALLS = 100_000  # more than fit into any number of seconds


def main() -> None:
    """Embed new token ids for some seconds at each length."""
    begin = time.monotonic()
    plan: dict[str, Any] = json.load(sys.stdin)
    os.environ.update(VLLM_LOGGING_LEVEL="ERROR", VLLM_ENABLE_V1_MULTIPROCESSING="0")
    from vllm import LLM

    llm = LLM(plan["model"], runner="pooling", load_format="dummy", dtype=plan["dtype"], **plan["arguments"])
    vectors = [output.outputs.embedding for output in llm.embed(_ids(plan["check"]), use_tqdm=False)]
    found: dict[str, Any] = {"start": {"first_embedding_s": time.monotonic() - begin, "vectors": vectors}}
    _write(plan, found)
    chance = random.Random()
    for tokens in plan["tokens"]:
        texts, first, seconds = 0, 0.0, 0.0
        count = plan["call_tokens"] // tokens
        for call in range(_CALLS):
            ids = [[chance.randrange(10, plan["ids"]) for _ in range(tokens)] for _ in range(count)]
            started = time.monotonic()
            llm.embed(_ids(ids), use_tqdm=False)
            if call:  # the first one warms up
                seconds += time.monotonic() - started
                texts += count
            first = first or started
            if texts and time.monotonic() - first > plan["seconds"]:
                break
        found[str(tokens)] = {"texts_per_s": texts / seconds, "tokens_per_s": texts * tokens / seconds}
        _write(plan, found)


def _ids(lists: list[list[int]]) -> list[dict[str, list[int]]]:
    return [{"prompt_token_ids": ids} for ids in lists]


def _write(plan: dict[str, Any], found: dict[str, Any]) -> None:
    Path(plan["result"]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
