"""MPNet's attention, which adds to each score a bias by the distance of the two tokens.

No attention of vLLM 0.32 takes such a bias. So vLLM's BERT gets torch's own, at the place where vLLM calls the kernel
of a layer: what is around it, compiled or not, stays vLLM's.
Source: transformers/models/mpnet/modeling_mpnet.py, `compute_position_bias`; unified_attention_with_output in
vllm/model_executor/layers/attention/attention.py.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

MPNET = "mpnet"
_BUCKETS = 32  # of distances: half for each direction, of which half are exact
_FARTHEST = 128  # tokens; from there on all distances share the last bucket


def attend_with_bias(model: Any) -> None:
    """Have vLLM's BERT *model* compute MPNet's attention, and make room for the bias among its weights."""
    import torch  # noqa: PLC0415 - importing it takes seconds

    encoder = model.model.encoder
    layers = [layer.attention.self for layer in encoder.layer]
    first = layers[0]
    encoder.relative_attention_bias = torch.nn.Embedding(_BUCKETS, first.total_num_heads)
    begin = first.qkv_proj.tp_rank * first.num_heads
    heads = slice(begin, begin + first.num_heads)  # of this worker
    attention = _Attention(encoder.relative_attention_bias, heads=heads, scale=first.scaling)
    for layer in layers:
        layer.attn.impl.forward = attention.forward


class _Attention:
    """What every layer computes."""

    def __init__(self, bias: Any, *, heads: slice, scale: float) -> None:
        """Take the *heads* of *bias*, an embedding of (buckets, all heads), once its weights are there."""
        self._bias = bias
        self._heads = heads
        self._scale = scale
        self._table: Any = None  # (1, heads, longest, longest)
        self._batch: Any = None
        self._texts: list[Any] = []

    def forward(
        self, _layer: Any, query: Any, key: Any, value: Any, _cache: Any, metadata: Any, output: Any, **_: Any
    ) -> Any:
        """Fill *output*; it, *query*, *key* and *value* are (tokens, heads, width). A warm-up has no *metadata*."""
        from torch.nn.functional import scaled_dot_product_attention  # noqa: PLC0415

        for at in self._where(metadata, query.device) if metadata is not None else ():
            q, k, v = (whole[at].transpose(1, 2) for whole in (query, key, value))  # (texts, heads, tokens, width)
            bias = self._within(at.shape[1])
            output[at] = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self._scale).transpose(1, 2)
        return output

    def _where(self, metadata: Any, device: Any) -> list[Any]:
        """Return where the batch's texts lie: those of one length as one (texts, tokens) of indices."""
        import torch  # noqa: PLC0415

        if metadata is not self._batch:  # which is one object for all layers
            starts: dict[int, list[int]] = {}
            for start, end in pairwise(metadata.query_start_loc.tolist()):
                if end > start:
                    starts.setdefault(end - start, []).append(start)
            self._batch = metadata
            self._texts = [
                torch.tensor(begin, device=device)[:, None] + torch.arange(tokens, device=device)
                for tokens, begin in starts.items()
            ]
        return self._texts

    def _within(self, tokens: int) -> Any:
        """Return the bias within texts of so many tokens, (1, heads, tokens, tokens)."""
        if self._table is None or self._table.shape[-1] < tokens:
            values = self._bias.weight[:, self._heads]
            self._table = values[buckets(tokens, values.device)].permute(2, 0, 1).unsqueeze(0).contiguous()
        return self._table[:, :, :tokens, :tokens]


def buckets(tokens: int, device: Any) -> Any:
    """Return the bucket of each pair of places in a text, (tokens, tokens): finer where they are near."""
    import torch  # noqa: PLC0415

    places = torch.arange(tokens, device=device)
    ahead = places[None, :] - places[:, None]
    half, exact = _BUCKETS // 2, _BUCKETS // 4
    far = ahead.abs().clamp(min=exact)  # what is nearer has a bucket of its own, and no logarithm at 0
    coarse = exact + (torch.log(far.float() / exact) / math.log(_FARTHEST / exact) * (half - exact)).long()
    return half * (ahead > 0).long() + torch.where(ahead.abs() < exact, ahead.abs(), coarse.clamp(max=half - 1))
