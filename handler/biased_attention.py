"""Attention that adds a bias to each score, by the places of the two tokens in their text.

No attention of vLLM 0.32 takes such a bias for encoders. So the layers of a model get torch's own, at the place where
vLLM calls the kernel of a layer: what is around it, compiled or not, stays vLLM's.
Source: unified_attention_with_output in vllm/model_executor/layers/attention/attention.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

# In the config that vLLM sees, where the model's type is that of the class which computes it: whose model it is.
COMPUTED_AS = "computed_as"
BUCKETS = 32  # of distances in T5 and MPNet: half for each direction, of which half are exact
FARTHEST = 128  # tokens; from there on all distances share the last bucket

# (rows, tokens, device) -> the bias of these rows of a text of so many tokens, (this worker's heads, rows, tokens).
Bias = Callable[[range, int, Any], Any]

_MOST_SCORES = 2**24  # of all heads together, whose bias is made at once; 12 heads of 1182 tokens


def attend_with_bias(layers: list[Any], bias: Bias) -> None:
    """Have *layers*, vLLM's modules with an `attn` and its `qkv_proj`, add *bias* to what they compute.

    It is asked for once the weights are there, and kept for texts that are short.
    """
    first = layers[0]
    attention = _Attention(bias, heads=first.num_heads, scale=first.scaling)
    for layer in layers:
        layer.attn.impl.forward = attention.forward


def own_heads(layer: Any) -> slice:
    """Return which of all heads *layer* has in this worker."""
    begin = layer.qkv_proj.tp_rank * layer.num_heads
    return slice(begin, begin + layer.num_heads)


def without_rotation(layer: Any) -> None:
    """Have an attention *layer* of vLLM's leave queries and keys as they are, whatever the positions."""
    del layer.rotary_emb  # a module, where a function takes its place
    layer.rotary_emb = lambda _positions, query, key: (query, key)


def learned_bias(owner: Any, layer: Any) -> Bias:
    """Make room for a bias by distances among the weights of *owner*, and return what it is for the heads of *layer*.

    Source: transformers/models/t5/modeling_t5.py and mpnet/modeling_mpnet.py, `compute_bias`.
    """
    import torch  # noqa: PLC0415 - importing it takes seconds

    owner.relative_attention_bias = torch.nn.Embedding(BUCKETS, layer.total_num_heads)
    heads = own_heads(layer)

    def bias(rows: range, tokens: int, device: Any) -> Any:
        learned = owner.relative_attention_bias.weight[:, heads]
        return learned[buckets(rows, tokens, device)].permute(2, 0, 1)

    return bias


def buckets(rows: range, tokens: int, device: Any) -> Any:
    """Return the bucket of each pair of places in a text, (rows, tokens): finer where they are near."""
    import torch  # noqa: PLC0415

    ahead = torch.arange(tokens, device=device) - torch.arange(rows.start, rows.stop, device=device)[:, None]
    half, exact = BUCKETS // 2, BUCKETS // 4
    far = ahead.abs().clamp(min=exact)  # what is nearer has a bucket of its own, and no logarithm at 0
    coarse = exact + (torch.log(far.float() / exact) / math.log(FARTHEST / exact) * (half - exact)).long()
    return half * (ahead > 0).long() + torch.where(ahead.abs() < exact, ahead.abs(), coarse.clamp(max=half - 1))


class _Attention:
    """What every layer computes."""

    def __init__(self, bias: Bias, *, heads: int, scale: float) -> None:
        self._bias = bias
        self._heads = heads
        self._scale = scale
        self._table: Any = None  # (heads, longest, longest): the bias of each text that is no longer
        self._batch: Any = None
        self._texts: list[Any] = []

    def forward(
        self, _layer: Any, query: Any, key: Any, value: Any, _cache: Any, metadata: Any, output: Any, **_: Any
    ) -> Any:
        """Fill *output*; it, *query*, *key* and *value* are (tokens, heads, width). A warm-up has no *metadata*."""
        from torch.nn.functional import scaled_dot_product_attention  # noqa: PLC0415

        for at in self._where(metadata, query.device) if metadata is not None else ():
            tokens = at.shape[1]
            q, k, v = (whole[at].transpose(1, 2) for whole in (query, key, value))  # (texts, heads, tokens, width)
            at_once = max(1, _MOST_SCORES // (self._heads * tokens))
            for begin in range(0, tokens, at_once):
                rows = range(begin, min(begin + at_once, tokens))
                bias = self._within(rows, tokens, query).unsqueeze(0)
                here = slice(rows.start, rows.stop)
                some = scaled_dot_product_attention(q[:, :, here], k, v, attn_mask=bias, scale=self._scale)
                output[at[:, here]] = some.transpose(1, 2)
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

    def _within(self, rows: range, tokens: int, query: Any) -> Any:
        """Return the bias of *rows* of a text of so many *tokens*, (heads, rows, tokens), as *query* is stored."""
        if len(rows) < tokens:
            return self._bias(rows, tokens, query.device).to(query.dtype)
        if self._table is None or self._table.shape[-1] < tokens:
            self._table = self._bias(rows, tokens, query.device).to(query.dtype).contiguous()
        return self._table[:, :tokens, :tokens]
