"""What an instruction in front of many inputs costs a causal model, with vLLM's prefix caching and without.

64 short queries under one instruction of 40 tokens, through the engine core that the server uses. Tokens computed are
counted at the scheduler. `python -m tests.bench.prefix_caching` prints a Markdown table.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handler.settings import Settings, prepare_process
from tests import models
from tests.engine_options import engine_options

INSTRUCTION_TOKENS = 40
QUERIES = 64
ROUNDS = 5
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {},
    # 0.17 B parameters: Qwen3-Embedding-0.6B with 12 of its 28 layers and a small vocabulary
    "mid-size": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What one configuration took for all queries."""

    tokens: int
    seconds: float
    vectors: np.ndarray


def folder_of(shape: str, parent: Path) -> Path:
    """Build a Qwen3 folder of *shape*; weights beyond the tiny ones are drawn by vLLM itself."""
    folder = models.build("qwen3-last", parent)
    config = json.loads((folder / "config.json").read_text())
    layers = SHAPES[shape].get("num_hidden_layers", config["num_hidden_layers"])
    config |= {**SHAPES[shape], "layer_types": ["full_attention"] * layers, "max_window_layers": layers}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def queries(instruction: int) -> Iterator[list[int]]:
    """Make token ids: one common beginning, then 8 to 16 of each query's own."""
    random = np.random.default_rng(instruction)
    common = random.integers(10, 600, INSTRUCTION_TOKENS).tolist()
    for _ in range(QUERIES):
        yield common + random.integers(10, 600, int(random.integers(8, 17))).tolist()


def measure(shape: str, *, caching: bool, block_size: int) -> Figures:
    """Run the queries; the first round warms up, each round has an instruction of its own."""
    from handler.vllm_core import VllmCore, import_vllm

    import_vllm()
    with tempfile.TemporaryDirectory() as parent:
        options = engine_options(
            folder_of(shape, Path(parent)),
            pooling="LAST",
            max_model_len=256,
            load_format="auto" if shape == "tiny" else "dummy",
            overrides={"enable_prefix_caching": caching, "block_size": block_size},
        )
        core = VllmCore(options)
    scheduler = core._core.scheduler  # noqa: SLF001 - only the scheduler knows what was computed
    schedule = scheduler.schedule
    counted: list[int] = []

    def counting(*arguments: Any) -> Any:
        output = schedule(*arguments)
        counted.append(output.total_num_scheduled_tokens)
        return output

    scheduler.schedule = counting
    seconds, tokens = [], []
    for instruction in range(ROUNDS + 1):
        counted.clear()
        begin = time.perf_counter()
        found = embed(core, list(queries(instruction)))
        seconds.append(time.perf_counter() - begin)
        tokens.append(sum(counted))
    core.close()
    return Figures(tokens[-1], statistics.median(seconds[1:]), found)


def embed(core: Any, batch: list[list[int]]) -> np.ndarray:
    """Embed *batch*; its first text goes ahead alone, as the first of many requests does."""
    found: dict[int, np.ndarray] = {}
    keys = range(len(batch))
    for part in (keys[:1], keys[1:]):
        for key in part:
            core.add(key, batch[key])
        while len(found) < part.stop:
            found.update(core.step())
    return np.stack([found[key] for key in sorted(found)])


def main() -> None:
    """Measure each configuration in a process of its own and print the table."""
    if len(sys.argv) > 1:
        name, caching, size = sys.argv[1:]
        figures = measure(name, caching=caching == "yes", block_size=int(size))
        np.save(sys.stdout.buffer, np.append(figures.vectors.ravel(), [figures.tokens, figures.seconds]))
        return
    print("| Qwen3 | KV block | tokens computed, cached / not | seconds, cached / not | ratio | lowest cosine |")
    print("|---|---|---|---|---|---|")
    for shape in SHAPES:
        for block in (32, 128):
            print(row(shape, block))


def row(shape: str, block: int) -> str:
    """Run both configurations and compare them."""
    cached, plain = (in_process(shape, caching, block) for caching in ("yes", "no"))
    cosines = np.sum(cached.vectors * plain.vectors, axis=1)
    cosines /= np.linalg.norm(cached.vectors, axis=1) * np.linalg.norm(plain.vectors, axis=1)
    return (
        f"| {shape} | {block} | {cached.tokens} / {plain.tokens} | {cached.seconds:.3f} / {plain.seconds:.3f} "
        f"| {cached.seconds / plain.seconds:.2f} | {cosines.min():.6f} |"
    )


def in_process(shape: str, caching: str, block: int) -> Figures:
    """Measure in a fresh process: vLLM holds what it has loaded."""
    import io
    import subprocess

    command = [sys.executable, "-m", "tests.bench.prefix_caching", shape, caching, str(block)]
    output = subprocess.run(command, check=True, capture_output=True).stdout
    numbers = np.load(io.BytesIO(output[output.index(b"\x93NUMPY") :]))
    return Figures(int(numbers[-2]), float(numbers[-1]), numbers[:-2].reshape(QUERIES, -1))


if __name__ == "__main__":
    prepare_process(Settings.from_environment())
    main()
