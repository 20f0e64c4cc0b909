"""Engine options as the server makes them of a folder that says little."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from handler.engine_args import EngineOptions


def engine_options(folder: Path, **changes: Any) -> EngineOptions:
    """Return the options of the model in *folder*, with *changes*."""
    options = EngineOptions(
        model=str(folder),
        shown_as=str(folder),
        streamed_from=None,
        pooling=None,
        normalizes=True,
        dense_layers=0,
        config_dtype="float32",
        dtype="auto",
        max_model_len=None,
        max_num_seqs=None,
        max_num_batched_tokens=None,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        gpu_memory_utilization=None,
        enforce_eager=None,
        load_format="auto",
        overrides={},
    )
    return dataclasses.replace(options, **changes)
