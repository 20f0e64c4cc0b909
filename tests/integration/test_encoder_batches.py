"""Batches that are made here hold the same texts and give the same vectors as vLLM's scheduler's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.integration.both_queues import ABORTED, TEXTS

LIMITS = {"max_num_seqs": 8, "max_model_len": 60, "max_num_batched_tokens": 200}


# Encoders: a model, and changes of its engine options.
BATCHED: list[tuple[str, dict[str, Any]]] = [
    ("bert-matryoshka", LIMITS),
    ("bert-matryoshka", {**LIMITS, "dtype": "bfloat16"}),
    ("modernbert-dense", {**LIMITS, "pooling": "MEAN", "dense_layers": 1}),  # two kinds of attention
    ("xlm-roberta-cls", {"max_num_seqs": 256, "pooling": "CLS"}),  # positions that begin elsewhere
]
# What needs vLLM's scheduler: a model, and engine arguments.
SCHEDULED: list[tuple[str, dict[str, Any]]] = [
    ("qwen3-last", {}),
    ("bert-matryoshka", {"scheduling_policy": "priority"}),
    ("bert-matryoshka", {"distributed_executor_backend": "mp"}),
]


@pytest.fixture(scope="module")
def told(folders: Path) -> list[dict[str, Any]]:
    """What came of each case, the first list's and then the second's."""
    cases = [*BATCHED, *((name, {"max_num_batched_tokens": 512, "overrides": changes}) for name, changes in SCHEDULED)]
    lines = [json.dumps([str(models.build(name, folders)), changes]) for name, changes in cases]
    command = [sys.executable, "-m", "tests.integration.both_queues"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"queue"')]


@pytest.mark.parametrize("case", range(len(BATCHED)), ids=[name for name, _ in BATCHED])
def test_encoders_are_batched_as_vllm_would(told: list[dict[str, Any]], case: int) -> None:
    """Batches end at the same texts, taken-out texts are in neither, and the numbers are the same."""
    seen = told[case]
    assert seen["queue"] == "_Encoder"
    assert seen["sizes"] == seen["plain_sizes"]
    assert len(seen["sizes"]) > 1 or "max_num_batched_tokens" not in BATCHED[case][1]
    assert seen["keys"] == seen["plain_keys"] == [key for key in range(TEXTS) if key not in ABORTED]
    assert seen["difference"] < 1e-6


@pytest.mark.parametrize("case", range(len(SCHEDULED)), ids=[str(changes) for _, changes in SCHEDULED])
def test_what_needs_vllms_scheduler_keeps_it(told: list[dict[str, Any]], case: int) -> None:
    """Decoders have a cache of keys and values, priorities an order of their own; a model may be in another process."""
    assert told[len(BATCHED) + case]["queue"] == "_Scheduled"
