"""MPNet's attention, which adds to each score a bias by the distance of the two tokens.

Source: transformers/models/mpnet/modeling_mpnet.py, `compute_position_bias`.
"""

from __future__ import annotations

import math
from typing import Any

from handler.biased_attention import attend_with_bias, own_heads

MPNET = "mpnet"
_BUCKETS = 32  # of distances: half for each direction, of which half are exact
_FARTHEST = 128  # tokens; from there on all distances share the last bucket


def attend_as_mpnet(model: Any) -> None:
    """Have vLLM's BERT *model* compute MPNet's attention, and make room for the bias among its weights."""
    import torch  # noqa: PLC0415 - importing it takes seconds

    encoder = model.model.encoder
    layers = [layer.attention.self for layer in encoder.layer]
    learned = torch.nn.Embedding(_BUCKETS, layers[0].total_num_heads)
    encoder.relative_attention_bias = learned
    heads = own_heads(layers[0])

    def bias(rows: range, tokens: int, device: Any) -> Any:
        return learned.weight[:, heads][buckets(rows, tokens, device)].permute(2, 0, 1)

    attend_with_bias(layers, bias)


def buckets(rows: range, tokens: int, device: Any) -> Any:
    """Return the bucket of each pair of places in a text, (rows, tokens): finer where they are near."""
    import torch  # noqa: PLC0415

    ahead = torch.arange(tokens, device=device) - torch.arange(rows.start, rows.stop, device=device)[:, None]
    half, exact = _BUCKETS // 2, _BUCKETS // 4
    far = ahead.abs().clamp(min=exact)  # what is nearer has a bucket of its own, and no logarithm at 0
    coarse = exact + (torch.log(far.float() / exact) / math.log(_FARTHEST / exact) * (half - exact)).long()
    return half * (ahead > 0).long() + torch.where(ahead.abs() < exact, ahead.abs(), coarse.clamp(max=half - 1))
