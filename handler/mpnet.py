"""MPNet's attention: a bias by the distance of the two tokens, which all layers share.

Source: transformers/models/mpnet/modeling_mpnet.py.
"""

from __future__ import annotations

from typing import Any

from handler.biased_attention import attend_with_bias, learned_bias

MPNET = "mpnet"


def attend_as_mpnet(model: Any) -> None:
    """Have vLLM's BERT *model* compute MPNet's attention, and make room for the bias among its weights."""
    layers = [layer.attention.self for layer in model.model.encoder.layer]
    attend_with_bias(layers, learned_bias(model.model.encoder, layers[0]))
