"""The only importer of vLLM: builds its engine core in this process and steps it.

`EngineCore` is driven directly, as vLLM's own `LLMEngine` does behind its in-process client: the layers above it
render, tokenise and make one output object per text, none of which embedding token ids needs. Encoders on CPUs go one
layer deeper, to the model itself: what lies between serves generation.
Source: vllm/v1/engine/core.py and core_client.py, v1/worker/gpu_model_runner.py of vLLM 0.32.
"""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handler import vllm_mends
from handler.engine_args import OURS, EngineOptions, check_engine_args, explain
from handler.errors import StartError
from handler.logs import drop_own_handlers
from handler.renaming import rename_weights
from handler.trust import needs_code

_CPU_KV_CACHE_BYTES = 4 * 2**30  # vLLM asks for 92 % of memory by itself; in one process pages are taken when used
_CPU_KV_BLOCK_TOKENS = 32  # the least that is fast; with vLLM's 128 no usual instruction is ever found in the cache


@cache  # once in a process: what is changed of vLLM here is changed in place
def import_vllm() -> None:
    """Import what the engine needs, most of a cold start, so that it can be timed by itself."""
    vllm_mends.skip_needless_warm_ups()
    # vLLM looks at every global of every module when it starts, deprecated ones of torch's too.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
    for module in ("torch", "vllm.engine.arg_utils", "vllm.v1.engine.core", "vllm.v1.executor"):
        importlib.import_module(module)
        drop_own_handlers("torch")
    base_loader = importlib.import_module("vllm.model_executor.model_loader.base_loader")
    vllm_mends.inspect_models_here(importlib.import_module("vllm.model_executor.models.registry"))
    rename_weights(base_loader)
    vllm_mends.refuse_missing_weights(base_loader)


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

        # It guards images in shared memory; to make one between processes needs /dev/shm, which Lambda has not.
        uniproc_executor.Lock = threading.Lock
        try:
            # By the context vLLM chooses the size of batches: without one, a GPU would get those of a CPU.
            config = _engine_args(options).create_engine_config(UsageContext.OPENAI_API_SERVER)
            if not config.model_config.enforce_eager:
                vllm_mends.let_compiled_models_load()
            self._core: Any = EngineCore(config, Executor.get_class(config), log_stats=False)
            tasks = self._core.get_supported_tasks()
        except StartError:
            raise
        except Exception as exc:  # vLLM, torch and safetensors raise dozens of classes here
            raise needs_code(options.shown_as, exc) or StartError(explain(exc, options)) from exc
        if "embed" not in tasks:
            message = f"vLLM cannot embed with {options.shown_as}: it offers {', '.join(tasks)} for this model"
            raise StartError(message)
        self._check_model(options, config.model_config)
        # Raw vectors always: unit length and cuts are ours, so every row of a batch takes vLLM's fast path.
        params = PoolingParams(task="embed", use_activation=False)
        params.verify(config.model_config)
        runner = _encoder_runner(self._core)
        self._queue = _Scheduled(self._core, params) if runner is None else _Encoder(self._core, runner, params)
        self.dimensions: int = config.model_config.embedding_size
        self.max_model_len: int = config.model_config.max_model_len
        self.dtype = str(config.model_config.dtype).removeprefix("torch.")
        self.pooling: str = config.model_config.pooler_config.seq_pooling_type
        at_once = self._core.batch_queue_size
        self.batch_texts: int = at_once * self._core.scheduler.max_num_running_reqs
        self.batch_tokens: int = at_once * self._core.scheduler.max_num_scheduled_tokens
        self.splits_texts: bool = config.scheduler_config.enable_chunked_prefill
        if config.scheduler_config.policy == "priority":  # vLLM chooses among all texts
            self.batch_texts = self.batch_tokens = sys.maxsize

    def _check_model(self, options: EngineOptions, config: Any) -> None:
        """Refuse a model of which vLLM failed to load Dense modules, which it only logs, or does something else."""
        asked = None if "pooler_config" in options.overrides else options.pooling
        causal = max(self._core.collective_rpc("apply_model", args=(vllm_mends.attends_causally,)))
        if found := vllm_mends.differs(config, asked, causal=causal):
            message = f"{options.shown_as}: vLLM's {config.architecture} {found}; not served"
            raise StartError(message)
        loaded = min(self._core.collective_rpc("apply_model", args=(vllm_mends.count_dense,)))
        if loaded != options.dense_layers:
            message = f"vLLM loaded {loaded} of {options.dense_layers} Dense modules of {options.shown_as}; not served"
            raise StartError(message)

    def add(self, key: int, token_ids: list[int], priority: int = 0) -> None:
        """Queue one text under *key*; *priority* counts where the engine schedules by it."""
        self._queue.add(key, token_ids, priority)

    def abort(self, keys: list[int]) -> None:
        """Forget texts that are still queued or running."""
        self._queue.abort(keys)

    def step(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Run one batch; return (key, raw float32 vector) of each text that is finished."""
        return self._queue.step()

    def close(self) -> None:
        """Free what the engine holds."""
        self._core.shutdown()


class _Scheduled:
    """Batches as vLLM schedules them."""

    def __init__(self, core: Any, params: Any) -> None:
        from vllm.v1.request import Request  # noqa: PLC0415

        self._core = core
        self._params = params
        self._request = Request

    def add(self, key: int, token_ids: list[int], priority: int) -> None:
        hasher = self._core.request_block_hasher
        request = self._request(str(key), token_ids, None, self._params, priority=priority, block_hasher=hasher)
        self._core.scheduler.add_request(request)

    def abort(self, keys: list[int]) -> None:
        self._core.abort_requests([str(key) for key in keys])

    def step(self) -> list[tuple[int, NDArray[np.float32]]]:
        outputs, executed = self._core.step_fn()
        self._core.post_step(executed)
        finished = [
            output for group in (outputs or {}).values() for output in group.outputs if output.finish_reason is not None
        ]
        return [(int(output.request_id), self._vector(output.pooling_output)) for output in finished]

    def _vector(self, pooled: Any) -> NDArray[np.float32]:
        if pooled is None:  # a text that the scheduler gave up; its request is answered 500
            dimensions = self._core.vllm_config.model_config.embedding_size
            return np.full(dimensions, np.nan, dtype=np.float32)
        vector: NDArray[np.float32] = pooled.float().cpu().numpy()
        return vector


class _Encoder:
    """Batches in the order of the texts, handed to the model as they are.

    An encoder reads each text once and whole. So there is nothing to schedule, no cache of keys and values and no state
    of a batch from step to step, which together cost a small model on a CPU more than its layers do.
    """

    def __init__(self, core: Any, runner: Any, params: Any) -> None:
        self._config = runner.vllm_config
        self._model = runner.model
        self._pooler = runner.model.pooler.poolers_by_task["embed"]
        self._params = params
        self._attention = [
            (group.get_metadata_builder(0), group.layer_names) for groups in runner.attn_groups for group in groups
        ]
        self._max_texts: int = core.scheduler.max_num_running_reqs
        self._max_tokens: int = core.scheduler.max_num_scheduled_tokens
        self._waiting: dict[int, list[int]] = {}

    def add(self, key: int, token_ids: list[int], _priority: int) -> None:
        self._waiting[key] = token_ids

    def abort(self, keys: list[int]) -> None:
        for key in keys:
            self._waiting.pop(key, None)

    def step(self) -> list[tuple[int, NDArray[np.float32]]]:
        keys: list[int] = []
        tokens = 0
        for key, token_ids in self._waiting.items():
            tokens += len(token_ids)
            if len(keys) == self._max_texts or (keys and tokens > self._max_tokens):
                break
            keys.append(key)
        return list(zip(keys, self._embed([self._waiting.pop(key) for key in keys]), strict=True)) if keys else []

    def _embed(self, texts: list[list[int]]) -> NDArray[np.float32]:
        """Return the raw vectors (n, dim) of *texts*, which follow each other without padding."""
        import torch  # noqa: PLC0415
        from vllm.forward_context import set_forward_context  # noqa: PLC0415
        from vllm.v1.pool.metadata import PoolingMetadata  # noqa: PLC0415

        lengths = np.array([len(text) for text in texts], dtype=np.int32)
        starts = np.concatenate(([0], np.cumsum(lengths)), dtype=np.int32)
        positions = np.arange(starts[-1], dtype=np.int64) - np.repeat(starts[:-1], lengths)
        with torch.inference_mode():
            token_ids = torch.from_numpy(np.fromiter(chain.from_iterable(texts), np.int32, count=len(positions)))
            length, start, position = map(torch.from_numpy, (lengths, starts, positions))
            attention = self._attention_metadata(length, start, position)
            with set_forward_context(attention, self._config, num_tokens=len(positions)):
                hidden = self._model(input_ids=token_ids, positions=position)
            pooling = PoolingMetadata(length, None, None, [self._params] * len(texts), [])
            pooling.build_pooling_cursor(lengths, length, hidden.device, start)
            vectors: NDArray[np.float32] = self._pooler(hidden, pooling).float().numpy()
        return vectors

    def _attention_metadata(self, lengths: Any, starts: Any, positions: Any) -> dict[str, Any]:
        """Tell each layer where the texts are; layers of one kind share it."""
        import torch  # noqa: PLC0415
        from vllm.v1.attention.backend import CommonAttentionMetadata  # noqa: PLC0415

        longest = int(lengths.max())
        metadata: dict[str, Any] = {}
        for builder, layers in self._attention:
            common = CommonAttentionMetadata(
                query_start_loc=starts,
                query_start_loc_cpu=starts,
                seq_lens=lengths,
                num_reqs=len(lengths),
                num_actual_tokens=len(positions),
                max_query_len=longest,
                max_seq_len=longest,
                block_table_tensor=torch.zeros((len(lengths), 1), dtype=torch.int32),
                slot_mapping=torch.empty(len(positions), dtype=torch.int64),  # the builder fills it
                positions=positions,
            )
            metadata |= dict.fromkeys(layers, builder.build(0, common))
        return metadata


def _encoder_runner(core: Any) -> Any | None:
    """Return the runner of an encoder on CPUs in this process; None where batches need more than `_Encoder` gives."""
    from vllm.platforms import current_platform  # noqa: PLC0415
    from vllm.v1.kv_cache_interface import EncoderOnlyAttentionSpec  # noqa: PLC0415

    config = core.vllm_config
    worker = getattr(core.model_executor, "driver_worker", None)  # None: it is another process
    if not current_platform.is_cpu() or config.parallel_config.world_size > 1 or worker is None:
        return None
    runner = worker.worker.model_runner
    asked = (config.lora_config, config.speculative_config, config.kv_transfer_config, config.ec_transfer_config)
    scheduled = config.scheduler_config.policy != "fcfs" or config.scheduler_config.scheduler_cls is not None
    if any(asked) or scheduled or runner.uses_mrope or runner.supports_mm_inputs:
        return None
    pooler = getattr(runner.model.pooler, "poolers_by_task", {}).get("embed")
    if pooler is None or pooler.get_pooling_updates("embed").requires_token_ids:
        return None
    groups = runner.kv_cache_config.kv_cache_groups
    encoder = groups and all(isinstance(group.kv_cache_spec, EncoderOnlyAttentionSpec) for group in groups)
    return runner if encoder else None


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
            message = "EMBED_PIPELINE_PARALLEL_SIZE: vLLM's CPU backend cannot do it eagerly; leave it at 1 on CPUs"
            raise StartError(message)
        chosen |= {"kv_cache_memory_bytes": _CPU_KV_CACHE_BYTES, "block_size": _CPU_KV_BLOCK_TOKENS}
        chosen["enforce_eager"] = options.enforce_eager is not False
        if options.dtype == "auto" and options.config_dtype in (None, "float32"):
            chosen["dtype"] = "float32"  # vLLM would make it float16, which CPUs compute slowly and less exactly
    if taken := sorted(OURS & options.overrides.keys()):
        message = f"EMBED_ENGINE_ARGS: {', '.join(taken)} cannot be set; the model is that of EMBED_MODEL_PATH"
        raise StartError(message)
    pooler = {"seq_pooling_type": options.pooling, "use_activation": options.normalizes}
    arguments = {
        "model": options.model,
        "runner": "pooling",
        "skip_tokenizer_init": True,  # we tokenise
        "disable_log_stats": True,
        "use_tqdm_on_load": False,  # our log tells the phases
        "worker_extension_cls": "handler.vllm_workers.Nothing",
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        "load_format": options.load_format,
        **{name: value for name, value in chosen.items() if value is not None},
        **({"pooler_config": pooler} if options.pooling else {}),
        **({"model_weights": options.streamed_from} if options.streamed_from else {}),
        **options.overrides,
    }
    return EngineArgs(**check_engine_args(EngineArgs, arguments))
