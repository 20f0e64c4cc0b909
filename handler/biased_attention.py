"""Attention that adds a bias to each score, by the places of the two tokens in their text.

No attention of vLLM 0.32 takes such a bias for encoders. So the layers of a model get torch's own, at the place where
vLLM calls the kernel of a layer: what is around it, compiled or not, stays vLLM's.
Source: unified_attention_with_output in vllm/model_executor/layers/attention/attention.py.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

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
