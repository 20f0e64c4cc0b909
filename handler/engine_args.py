"""What the engine is asked for, and what is said where vLLM cannot do it; imports nothing of vLLM."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from handler.errors import StartError

OURS = {"model", "model_weights", "tokenizer", "skip_tokenizer_init", "runner"}  # arguments that belong together
_LINE_CHARS = 300  # of vLLM's message, which may name every architecture that it knows
_VALUE_CHARS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What of the settings and the model folder shapes the engine; None leaves the choice to vLLM."""

    model: str
    shown_as: str  # in messages: the folder that the operator knows
    streamed_from: str | None  # where a streaming loader finds the weights; None: in the folder
    pooling: str | None
    normalizes: bool
    dense_layers: int
    config_dtype: str | None  # what config.json calls the checkpoint's type
    dtype: str
    max_model_len: int | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    tensor_parallel_size: int
    pipeline_parallel_size: int
    gpu_memory_utilization: float | None
    enforce_eager: bool | None
    load_format: str
    overrides: Mapping[str, Any]  # EMBED_ENGINE_ARGS


def check_engine_args(engine_args: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check *arguments* by name and type against the installed vLLM's own list.

    Raises:
        StartError: one line per unknown name (with the nearest real one) or wrong value.
    """
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415
    from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError  # noqa: PLC0415

    types: dict[str, Any] = {entry.name: entry.type for entry in dataclasses.fields(engine_args)}
    checked: dict[str, Any] = {}
    problems = []
    for name, value in arguments.items():
        if name not in types:
            close = difflib.get_close_matches(name, types, n=1, cutoff=0)
            problems.append(f"EMBED_ENGINE_ARGS: vLLM has no engine argument {name!r}; the nearest is {close[0]!r}")
            continue
        try:
            checked[name] = TypeAdapter(types[name]).validate_python(value)
        except ValidationError as exc:
            problems.append(f"EMBED_ENGINE_ARGS: {name}: {exc.errors()[0]['msg']}{_shown(name, value)}")
        except (PydanticUserError, PydanticUndefinedAnnotation):  # a few types only vLLM itself can check
            checked[name] = value
    if problems:
        raise StartError("\n".join(problems))
    return checked


def _shown(name: str, value: Any) -> str:
    """Write the *value* of an argument for a message, unless it may be a credential or hold one."""
    secret = isinstance(value, (dict, list)) or name.endswith(("token", "key", "secret", "password"))
    return "" if secret else f" (got {shorten(repr(value), _VALUE_CHARS, placeholder='...')})"


# What vLLM, torch and safetensors say -> what to do about it; the first match counts.
_REMEDIES = {
    ("no space left", "no usable temporary directory"): (
        "vLLM needs a few small files to start: make room in the folder for temporary files, or set TMPDIR and "
        "EMBED_CACHE_DIR to folders that can be written"
    ),
    ("decrease gpu memory",): "set EMBED_GPU_MEMORY_UTILIZATION lower, or end what else uses this GPU",
    ("out of memory", "kv cache", "free memory", "available memory"): (
        "set EMBED_MAX_MODEL_LEN lower, or give it more: kv_cache_memory_bytes in EMBED_ENGINE_ARGS, or a larger device"
    ),
    ("max_num_batched_tokens",): (
        "set EMBED_MAX_NUM_BATCHED_TOKENS to at least the longest input's tokens, or EMBED_MAX_MODEL_LEN lower"
    ),
    ("max_model_len",): "set EMBED_MAX_MODEL_LEN to at most what the model was made for",
    ("invalidcxxcompiler", "failed to find c compiler"): (
        "to compile a model takes g++ and gcc: install them, or set EMBED_ENFORCE_EAGER=true"
    ),
    ("lack of triton",): "vLLM computes this, a mixture of experts perhaps, on GPUs only",
    ("unsupported cpu attention",): "vLLM has no heads of this size on CPUs; take another model, or a GPU",
    ("no module or parameter named",): (
        "the checkpoint has weights that vLLM has no place for, as the head of another task is: load it with "
        "Transformers' AutoModel and save it again"
    ),
    ("failed to be inspected",): (
        "vLLM's code for that architecture cannot be imported: where it reads pictures or sound, too, it needs "
        "torchvision, which is left out here"
    ),
    ("architecture", "not supported", "unsupported", "no other way to handle"): (
        "this vLLM does not serve that architecture or choice"
    ),
    ("file access error",): (  # the streaming loader's only words
        "an object was cut off, changed or refused while it was streamed; start again, or leave EMBED_LOAD_FORMAT at "
        "auto, which tells what it was"
    ),
    ("missingweights",): "download the model again; if they are there, this vLLM cannot serve it",
    ("attempted to load weight", "size mismatch"): "config.json and the weights do not belong together; download again",
    ("safetensor", "header", "no such file", "weights"): (
        "the weights are broken or incomplete; download the model again"
    ),
}


def explain(exc: Exception, options: EngineOptions) -> str:
    """Put cause and remedy of a failed load in one line."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()] or ["no message"]
    # pydantic's first line only counts the errors
    line = lines[1] if type(exc).__name__ == "ValidationError" and len(lines) > 1 else lines[0]
    line, _, _ = line.replace(options.model, options.shown_as).partition(" Supported architectures: ")  # some hundred
    line = shorten(line.rstrip("."), _LINE_CHARS, placeholder="...")
    known = remedy(exc, "start again with LOG_LEVEL=DEBUG to hear vLLM itself")
    return f"vLLM cannot load {options.shown_as}: {type(exc).__name__}: {line}; {known}"


def remedy(exc: BaseException, otherwise: str) -> str:
    """Say what to do about *exc*, and *otherwise* where it is not known."""
    text = f"{type(exc).__name__} {exc}".lower().replace("memoryerror", "out of memory")
    return next((todo for words, todo in _REMEDIES.items() if any(word in text for word in words)), otherwise)
