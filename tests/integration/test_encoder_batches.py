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


def both_queues(folder: Path, **changes: Any) -> dict[str, Any]:
    """Run the same texts both ways."""
    command = [sys.executable, "-m", "tests.integration.both_queues", str(folder), json.dumps(changes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bert-matryoshka", LIMITS),
        ("bert-matryoshka", {**LIMITS, "dtype": "bfloat16"}),
        ("modernbert-dense", {**LIMITS, "pooling": "MEAN", "dense_layers": 1}),  # two kinds of attention
        ("xlm-roberta-cls", {"max_num_seqs": 256, "pooling": "CLS"}),  # positions that begin elsewhere
    ],
)
def test_encoders_are_batched_as_vllm_would(folders: Path, name: str, changes: dict[str, Any]) -> None:
    """Batches end at the same texts, taken-out texts are in neither, and the numbers are the same."""
    told = both_queues(models.build(name, folders), **changes)
    assert told["queue"] == "_Encoder"
    assert told["sizes"] == told["plain_sizes"]
    assert len(told["sizes"]) > 1 or "max_num_batched_tokens" not in changes
    assert told["keys"] == told["plain_keys"] == [key for key in range(TEXTS) if key not in ABORTED]
    assert told["difference"] < 1e-6


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("qwen3-last", {}),
        ("bert-matryoshka", {"scheduling_policy": "priority"}),
        ("bert-matryoshka", {"distributed_executor_backend": "mp"}),
    ],
)
def test_what_needs_vllms_scheduler_keeps_it(folders: Path, name: str, overrides: dict[str, Any]) -> None:
    """Decoders have a cache of keys and values, priorities an order of their own; a model may be in another process."""
    told = both_queues(models.build(name, folders), max_num_batched_tokens=512, overrides=overrides)
    assert told["queue"] == "_Scheduled"
