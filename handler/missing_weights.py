"""Weights that a checkpoint lacks: vLLM would serve whatever the memory held in their place.

vLLM 0.32 makes the matrices of a model unset and fills them with what the files hold. It compares names afterwards, but
leaves out every linear layer and embedding, where a part of a matrix may also be missing unseen. So they are marked
before they are filled, and looked at after.
Source: vllm/model_executor/model_loader/base_loader.py, and track_weights_loading in default_loader.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Those of quantized layers have defaults of their own, which checkpoints need not hold.
_METHODS = {"UnquantizedLinearMethod", "UnquantizedEmbeddingMethod"}
# Transformers' pooler, which vLLM makes but does not use: it has its own. Many checkpoints come without.
_UNUSED = "pooler"
_NAMED = 3  # of the weights that are missing


class MissingWeightsError(ValueError):
    """The checkpoint lacks weights, or has NaN in their place."""


def refuse_missing_weights(base_loader: Any) -> None:
    """Have vLLM's module *base_loader* raise `MissingWeightsError`; worker processes that are forked inherit it."""
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
        if type(getattr(module, "quant_method", None)).__name__ in _METHODS and _UNUSED not in layer.split("."):
            for name, parameter in module.named_parameters(recurse=False):
                column = parameter.data if parameter.dim() == 1 else parameter.data[..., 0]
                if column.is_floating_point():
                    yield f"{layer}.{name}", column
