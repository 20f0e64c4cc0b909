"""ALBERT's two ways to few weights: words narrower than the layers, and one layer that is run again and again.

vLLM's BERT has neither. So it gets embeddings of the words' width and a matrix behind them, and its first layer takes
the place of all others; what a layer computes stays vLLM's.
Source: transformers/models/albert/modeling_albert.py, vllm/model_executor/models/bert.py.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

ALBERT = "albert"
WORD_SIZE = "word_size"  # in the config that vLLM sees, where `embedding_size` would be the size of the vectors


def share_weights(model: Any) -> None:
    """Have vLLM's BERT *model* widen its words, and run its first layer as often as it has layers."""
    import torch  # noqa: PLC0415 - importing it takes seconds

    bert, config = model.model, model.config
    narrow = SimpleNamespace(**{**config.to_dict(), "hidden_size": getattr(config, WORD_SIZE)})
    words = type(bert.embeddings)(narrow)
    words.widen = torch.nn.Linear(narrow.hidden_size, config.hidden_size)
    words.register_forward_hook(lambda module, _inputs, embedded: module.widen(embedded))
    bert.embeddings = words
    layers = bert.encoder.layer
    bert.encoder.layer = torch.nn.ModuleList([layers[0]] * len(layers))
