"""What is measured of each shape: servers, their settings, their loads, in the order in which it matters."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

from tests.bench.gpu_load import Load
from tests.bench.gpu_shapes import Shape

SLOTS = 64  # the server's default
LOADS = tuple(
    Load(tokens, texts, connections) for tokens in (50, 512) for texts, connections in ((1, SLOTS), (32, 16), (256, 4))
)
TWO = (Load(50, 32, 16), Load(512, 32, 16))  # what variations are compared by
MANY = Load(50, 1, 256)
# Twenty sizes instead of vLLM's 51, and to 2048 tokens instead of 512: what a loaded server's batches have. In between
# at most a quarter is padding.
_GRAPH_TOKENS = [8, 16, 32, 64, 96, *range(128, 512, 64), *range(512, 1024, 128), *range(1024, 2049, 256)]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of serving a shape, started once; `start` and each load are measurements that are kept apart."""

    name: str
    kind: Literal["ours", "vllm", "alone"]
    about: str
    settings: dict[str, str] = field(default_factory=dict)  # environment of ours
    flags: tuple[str, ...] = ()  # of vLLM's
    loads: tuple[Load, ...] = TWO
    cold: bool = False  # with an empty cache folder; else with that of an earlier start
    own_cache: bool = False  # what is cached depends on its settings: the earlier start must be one with these

    @property
    def items(self) -> list[str]:
        """Name its measurements."""
        return ["start", *(load.key for load in self.loads)]


def dtype(shape: Shape, *, gpu: bool) -> str:
    """Name the type in which every variant but those that vary it computes."""
    return shape.dtype if gpu else "float32"


def variants(shape: Shape, *, gpu: bool) -> list[Variant]:
    """List them; those that vary one setting do so on top of what a GPU gets by default, eager on a CPU."""
    compiled = {"EMBED_ENFORCE_EAGER": "false"}
    eager = {"EMBED_ENFORCE_EAGER": "true"}
    quiet = ("--disable-log-stats", "--disable-uvicorn-access-log", "--no-enable-prefix-caching")
    return [
        Variant("compiled-empty", "ours", "this server, compiled, empty cache", compiled, loads=(), cold=True),
        Variant("compiled", "ours", "this server, compiled, carried cache", compiled, loads=LOADS),
        Variant("vllm-empty", "vllm", "vLLM's server, default flags, empty cache", loads=(), cold=True),
        Variant("vllm", "vllm", "vLLM's server, default flags, carried cache", loads=LOADS),
        Variant("alone", "alone", "the engine alone", loads=tuple(Load(tokens, 0, 0) for tokens in (50, 512))),
        Variant("eager", "ours", "this server, eager", eager),
        Variant("vllm-best", "vllm", f"vLLM's server, {' '.join(quiet)}", flags=quiet, loads=LOADS),
        *_variations(shape, compiled if gpu else eager, gpu=gpu),
    ]


def _variations(shape: Shape, base: dict[str, str], *, gpu: bool) -> list[Variant]:
    tokens, texts = "EMBED_MAX_NUM_BATCHED_TOKENS", "EMBED_MAX_NUM_SEQS"
    graphs = {
        "graphs-none": {"cudagraph_mode": "NONE"},
        "graphs-few": {"cudagraph_capture_sizes": [1, 8, 32, 64, 128, 256, 512]},
        "graphs-to-2048": {"max_cudagraph_capture_size": 2048},
        "graphs-20": {"cudagraph_capture_sizes": _GRAPH_TOKENS},
    }
    starts = {
        # Without it decoders capture every graph twice, first to weigh them.
        "startup-plan": {"VLLM_ENABLE_STARTUP_PLAN": "1"},
        # With it vLLM leaves frozen what was frozen before the engine was built.
        "graphs-gc": {"VLLM_ENABLE_CUDAGRAPH_GC": "1"},
        "runner-v1": {"VLLM_USE_V2_MODEL_RUNNER": "0"},
    }
    changed: dict[str, dict[str, str]] = {
        "batch-2048-128": {tokens: "2048", texts: "128"},
        "batch-8192-1024": {tokens: "8192", texts: "1024"},
        "batch-16384-1024": {tokens: "16384", texts: "1024"},
        "batch-32768-1024": {tokens: "32768", texts: "1024"},
        "texts-256": {texts: "256"},
        **{name: {"EMBED_ENGINE_ARGS": json.dumps({"compilation_config": value})} for name, value in graphs.items()},
        "async": {"EMBED_ENGINE_ARGS": json.dumps({"async_scheduling": True})},
        **{name: {"EMBED_DTYPE": name} for name in ("bfloat16", "float16", "float32") if name != dtype(shape, gpu=gpu)},
    }
    slots = {"EMBED_MAX_CONCURRENT_REQUESTS": str(MANY.connections)}
    return [
        *(
            Variant(name, "ours", _shown(settings), base | settings, own_cache=name in graphs)
            for name, settings in changed.items()
        ),
        *(
            Variant(name, "ours", _shown(settings), base | settings, own_cache=True)
            for name, settings in starts.items()
        ),
        Variant("slots-256", "ours", _shown(slots), base | slots, loads=(MANY,)),
    ]


def _shown(settings: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())
