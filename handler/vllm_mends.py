"""What vLLM 0.32 would do amiss for text embedding, mended in place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

_WARM_UPS = "vllm.model_executor.warmup"
_NEEDLESS = ("minimax_m3_msa_warmup", "qwen_vl_triton_warmup")  # modules, and the function of the same name in each

# Those of quantized layers have defaults of their own, which checkpoints need not hold.
_METHODS = {"UnquantizedLinearMethod", "UnquantizedEmbeddingMethod"}
_PLAIN = {"Linear", "Embedding", "LayerNorm"}  # torch's own; vLLM's streaming loader does not look whether they came
# Transformers' pooler, which vLLM makes but does not use: it has its own. Many checkpoints come without.
_UNUSED = "pooler"
_NAMED = 3  # of the weights that are missing


def skip_needless_warm_ups() -> None:
    """Have nothing done for models that embed no text.

    Before it serves on a GPU, vLLM warms up the kernels of vision models, whatever the model is, and for that it
    imports them, and they torchvision, which the image has not. Stand-ins take the place of these two modules, and of
    their functions where vLLM has been imported already, as in a worker process that was spawned.
    Source: vllm/model_executor/warmup/kernel_warmup.py.
    """
    caller = sys.modules.get(f"{_WARM_UPS}.kernel_warmup")
    for name in _NEEDLESS:
        stand_in = ModuleType(f"{_WARM_UPS}.{name}", "Does nothing in place of vLLM's own.")
        for module in filter(None, (stand_in, caller)):
            setattr(module, name, lambda *_: None)
        sys.modules[stand_in.__name__] = stand_in


def inspect_models_here(registry: Any) -> None:
    """Have vLLM's module *registry* look at a model's class in this process.

    Where its cache does not know the class, it asks a second Python, which imports all of vLLM again: as long as the
    rest of the start. It does so lest CUDA be in use before vLLM has chosen how to start workers; here it is in use
    right afterwards, and where there are workers, vLLM spawns them then.
    Source: vllm/model_executor/models/registry.py, `_LazyRegisteredModel.inspect_model_cls`.
    """
    registry._run_in_subprocess = lambda function: function()  # noqa: SLF001 - see above


def let_compiled_models_load() -> None:
    """Have compiled models load again from the cache of an earlier start.

    When vLLM has loaded what torch had compiled, it calls a method that only its own backend's result has. On CPUs
    torch's backend compiles, whose result is ready as it is: vLLM takes the missing method for a broken file and
    compiles anew at every start, ten seconds instead of two.
    Source: vllm/compilation/decorators.py, `_try_load_aot_compiled_fn`.
    """
    import torch  # noqa: PLC0415 - importing it takes seconds

    load = torch.compiler.load_compiled_function

    def load_compiled_function(*args: Any, **options: Any) -> Any:
        loaded: Any = load(*args, **options)
        compiled = loaded._artifacts.compiled_fn  # noqa: SLF001 - where vLLM looks
        if not hasattr(compiled, "finalize_loading"):
            compiled.finalize_loading = lambda _config: None
        return loaded

    torch.compiler.load_compiled_function = load_compiled_function


class MissingWeightsError(ValueError):
    """The checkpoint lacks weights, or has NaN in their place."""


def refuse_missing_weights(base_loader: Any) -> None:
    """Have vLLM's module *base_loader* raise `MissingWeightsError`, where it would serve what the memory held.

    vLLM makes the matrices of a model unset and fills them with what the files hold. It compares names afterwards, but
    leaves out every linear layer and embedding, where a part of a matrix may also be missing unseen. So they are marked
    before they are filled, and looked at after.
    Source: vllm/model_executor/model_loader/base_loader.py, and track_weights_loading in default_loader.py.
    """
    initialize, process = base_loader.initialize_model, base_loader.process_weights_after_loading

    def initialize_model(*args: Any, **options: Any) -> Any:
        model = initialize(*args, **options)
        for _, marked in _marked(model):
            marked.fill_(float("nan"))
        return model

    def process_weights_after_loading(model: Any, *args: Any) -> None:
        missing = [name for name, marked in _marked(model) if marked.isnan().any()]
        if missing:
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            message = f"vLLM found no weights, or NaN, in the checkpoint for {', '.join(missing[:_NAMED])}{more}"
            raise MissingWeightsError(message)
        process(model, *args)

    base_loader.initialize_model = initialize_model
    base_loader.process_weights_after_loading = process_weights_after_loading


def _marked(model: Any) -> Iterator[tuple[str, Any]]:
    """Name each matrix and give a column of it, (rows,), for parts are stacked in rows; of a bias everything."""
    for layer, module in model.named_modules():
        is_plain = type(module).__name__ in _PLAIN and type(module).__module__.startswith("torch.nn.")
        is_full = is_plain or type(getattr(module, "quant_method", None)).__name__ in _METHODS
        if is_full and _UNUSED not in layer.split("."):
            for name, parameter in module.named_parameters(recurse=False):
                column = parameter.data if parameter.dim() == 1 else parameter.data[..., 0]
                if column.is_floating_point():
                    yield f"{layer}.{name}", column


def count_dense(model: Any) -> int:
    """Count the linear layers of the embedding head, which vLLM only logs if it fails to load them.

    It runs in every worker process of the engine.
    """
    pooler = getattr(model, "pooler", None)
    pooler = getattr(pooler, "poolers_by_task", {}).get("embed", pooler)
    projector: Any = getattr(getattr(pooler, "head", None), "projector", None)
    layers = projector.modules() if hasattr(projector, "modules") else ()
    return sum(hasattr(layer, "out_features") for layer in layers)


def attends_causally(model: Any) -> bool:
    """Whether some layer of *model* looks back only. It runs in every worker process of the engine."""
    layers = (layer for layer in model.modules() if hasattr(layer, "impl"))  # the model's class has an attn_type too
    return any(getattr(layer, "attn_type", None) == "decoder" for layer in layers)


def differs(model_config: Any, pooling: str | None, *, causal: bool) -> str | None:
    """Say what of its folder vLLM does not do with a model, None where it does everything.

    Only some of its classes obey `is_causal`, and one takes the pooling from config.json, whatever modules.json says.
    Positions are scaled once for all texts, where Transformers does it by the length of each.
    Source: vllm/config/model.py, LlamaBidirectionalConfig in vllm/model_executor/models/config.py, and
    phi3_long_rope_scaled_rope.py in vllm/model_executor/layers/rotary_embedding.

    Args:
        model_config: vLLM's.
        pooling: what the folder asks for, None where it does not.
        causal: whether the layers look back only.
    """
    config = model_config.hf_text_config
    both_sides = (
        getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", 0) is True
    )
    if both_sides and causal:
        return "looks back only, though config.json asks for attention to both sides"
    rope = getattr(config, "rope_parameters", None) or {}
    short: Any = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", 0)
    if rope.get("rope_type") == "longrope" and 0 < short < model_config.max_model_len:
        return (
            f"scales the positions of short texts as those of long ones (longrope), unless EMBED_MAX_MODEL_LEN={short}"
        )
    taken = model_config.pooler_config.seq_pooling_type
    return f"takes {taken} pooling, though modules.json asks for {pooling}" if pooling not in (None, taken) else None
