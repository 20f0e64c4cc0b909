"""Seconds to ready with the weights in no page cache: read ahead while Python imports, and not.

A BERT with random weights (1.2 GB in float32) is written once, and dropped from the page cache before each start.
`python -m tests.bench.read_ahead [ROUNDS] [FOLDER]` prints a Markdown table; FOLDER is where the model is put, on the
storage to be measured.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import httpx
import transformers as hf

from tests import models
from tests.server import Server

SHAPE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
SERVERS = {"read ahead": "handler", "not read ahead": "tests.bench.without_read_ahead"}


def make_model(parent: Path) -> Path:
    """Write a folder as a published model's, with weights of the size of a large BERT's."""
    folder = models.build("bert-lower", parent)
    config = hf.AutoConfig.from_pretrained(folder)
    config.update(SHAPE)
    cast("Any", hf.AutoModel).from_config(config).save_pretrained(folder)
    pooling = next(folder.glob("*_Pooling/config.json"))
    size = {"word_embedding_dimension": SHAPE["hidden_size"]}
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | size))
    return folder


def drop(folder: Path) -> int:
    """Take the weights in *folder* out of the page cache; return their size in bytes."""
    size = 0
    for file in folder.rglob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)  # what is not written yet cannot be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        size += file.stat().st_size
    return size


def start(module: str, folder: Path, cache: str) -> tuple[float, float, int]:
    """Start once; return seconds to ready, seconds of the engine's phase, bytes that came from the storage."""
    with Server(module=module, EMBED_MODEL_PATH=str(folder), EMBED_CACHE_DIR=cache) as server:
        begin = time.monotonic()
        server.wait_ready()
        seconds = time.monotonic() - begin
        phases = httpx.get(f"{server.url}/health").json()["phases_s"]
        return seconds, phases["engine"], server.worker().io_counters().read_bytes


def main() -> None:
    """Alternate, and print the table; the first round fills the other caches and is not counted."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    figures: dict[str, list[tuple[float, float, int]]] = {name: [] for name in SERVERS}
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as parent:
        folder = make_model(Path(parent))
        for count in range(rounds + 1):
            for name, module in SERVERS.items():
                size = drop(folder)
                figure = start(module, folder, f"{parent}/cache")
                if count:
                    figures[name].append(figure)
    print(f"{size / 1e6:.0f} MB of weights, {rounds} rounds\n")
    print("| weights | seconds to ready, median | min | max | of them the engine | MB from the storage |")
    print("|---|---|---|---|---|---|")
    for name, found in figures.items():
        ready, engine, read = ([figure[at] for figure in found] for at in range(3))
        print(
            f"| {name} | {statistics.median(ready):.1f} | {min(ready):.1f} | {max(ready):.1f} "
            f"| {statistics.median(engine):.1f} | {statistics.median(read) / 1e6:.0f} |"
        )


if __name__ == "__main__":
    main()
