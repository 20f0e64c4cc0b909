"""jina-embeddings-v2 as the GTE that it nearly is: no positions, but scores that fall with the distance (ALiBi).

vLLM 0.32 has no class for it, Transformers 5 neither; its repositories were made for Python code of their own, which
is not needed here. So config.json names vLLM's GTE, whose layers have the same parts: its rotation of positions goes
out, a bias comes in, and the weights get that class's names while they are loaded. The model for code adds norms of
queries, of keys and behind the attention.
Source: backends/candle/src/models/jina.rs and jina_code.rs of text-embeddings-inference,
vllm/model_executor/models/bert_with_rope.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from handler.biased_attention import COMPUTED_AS, attend_with_bias, own_heads, without_rotation

Json = dict[str, Any]

JINA, JINA_CODE = "jina_bert", "jina_bert_code"
_FEED_FORWARD = "geglu"
_CODE = "jina-bert-v2-qk-post-norm"  # where the Python of the model for code is
_LEFT_OUT = ("pooler.", "cls.")  # a pooler and heads of other tasks
# What a layer's weights are called -> what vLLM's GTE takes them for. Of the two halves of the widening matrix the one
# that goes through the activation comes first or, in the model for code, second.
_NAMES = {
    ".attention.output.dense.": ".attention.o_proj.",
    ".attention.output.LayerNorm.": ".attn_ln.",
    ".mlp.wo.": ".mlp.down_proj.",
    ".mlp.layernorm.": ".mlp_ln.",
}
_CODE_NAMES = {
    ".attention.self.layer_norm_q.": ".attn.query_ln.",
    ".attention.self.layer_norm_k.": ".attn.key_ln.",
    ".attention.output.dense.": ".attention.o_proj.",
    ".attention.output.LayerNorm.": ".attn.post_ln.",
    ".layer_norm_1.": ".attn_ln.",
    ".layer_norm_2.": ".mlp_ln.",
    ".mlp.up_gated_layer.": ".mlp.up_gate_proj.",
    ".mlp.down_layer.": ".mlp.down_proj.",
}
_WIDENING = {JINA: ".mlp.gated_layers.", JINA_CODE: ".mlp.up_gated_layer."}  # by which the two can be told
_PARTS = ("query", "key", "value")  # which vLLM's GTE takes as one


def is_jina(config: Json) -> bool:
    """Whether *config*, a model's config.json, is that of a jina-embeddings-v2: it calls itself a BERT."""
    return config.get("model_type") == "bert" and config.get("position_embedding_type") == "alibi"


def is_jina_code(config: Json) -> bool:
    """Whether it is the model for code, whose norms go over all heads: workers cannot share its layers."""
    return is_jina(config) and _CODE in f"{config.get('auto_map')} {config.get('_name_or_path')}"


def jina_problem(config: Json) -> str | None:
    """Say which choice in a *config* of theirs is not computed here, None where there is none."""
    kind = str((config.get("architectures") or [""])[0])
    if kind.endswith("ForSequenceClassification"):
        return f"{kind} scores pairs of texts and embeds none"
    if config.get("is_decoder"):
        return "is_decoder, but it looks to both sides"
    if (feed_forward := config.get("feed_forward_type")) != _FEED_FORWARD:
        return f"feed_forward_type={feed_forward}, of which only {_FEED_FORWARD} is computed here"
    return None


def jina_as_gte(config: Json) -> Json:
    """Name GTE's class, and keep which of the two models it is."""
    shown = {
        "model_type": "gte",
        "architectures": ["GteModel"],
        "position_embedding_type": "rope",
        "hidden_act": "gelu",
        COMPUTED_AS: JINA_CODE if is_jina_code(config) else JINA,
    }
    return config | shown


def weights_as_gte(weights: Iterable[tuple[str, Any]], *, kind: str) -> Iterator[tuple[str, Any]]:
    """Rename the weights of a *kind*, "jina_bert" or "jina_bert_code", and put queries, keys and values together.

    Raises:
        ValueError: the weights are of the other kind.
    """
    import torch  # noqa: PLC0415 - importing it takes seconds

    names, other = (_CODE_NAMES, JINA) if kind == JINA_CODE else (_NAMES, JINA_CODE)
    apart: dict[str, dict[str, Any]] = {}
    for name, tensor in weights:
        renamed = name.removeprefix("bert.")
        if renamed.startswith(_LEFT_OUT):
            continue
        if _WIDENING[other] in renamed:
            message = (
                f"auto_map in config.json must name {_CODE} for jina-embeddings-v2-base-code, and for no other model"
            )
            raise ValueError(message)
        layer, _, part = renamed.partition(".attention.self.")
        which, _, what = part.partition(".")
        if which in _PARTS:
            together = f"{layer}.attention.qkv_proj.{what}"
            apart.setdefault(together, {})[which] = tensor
            if len(apart[together]) == len(_PARTS):
                parts = apart.pop(together)
                yield together, torch.cat([parts[one] for one in _PARTS])
        elif kind == JINA and _WIDENING[JINA] in renamed:
            activated, plain = tensor.chunk(2)
            yield renamed.replace("gated_layers", "gate_proj"), activated
            yield renamed.replace("gated_layers", "up_proj"), plain
        else:
            for theirs, gtes in names.items():
                renamed = renamed.replace(theirs, gtes)
            yield renamed, tensor


def attend_by_distance(model: Any) -> None:
    """Have vLLM's GTE *model* compute a jina-embeddings-v2; that for code must have all its heads here."""
    import torch  # noqa: PLC0415

    config = model.config
    layers = [layer.attn for layer in model.encoder.layers]
    for layer in layers:
        without_rotation(layer)
    first = layers[0]
    if getattr(config, COMPUTED_AS) == JINA_CODE:
        for layer in layers:
            for name in ("query_ln", "key_ln", "post_ln"):
                setattr(layer, name, torch.nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps))
            _add_norms(layer)
    slopes = alibi_slopes(first.total_num_heads)[own_heads(first)]

    def bias(rows: range, tokens: int, device: Any) -> Any:
        ahead = torch.arange(tokens, device=device) - torch.arange(rows.start, rows.stop, device=device)[:, None]
        return ahead.abs() * -torch.tensor(slopes, device=device, dtype=torch.float32)[:, None, None]

    attend_with_bias(layers, bias)


def _add_norms(layer: Any) -> None:
    """Have an attention *layer* of the model for code norm queries, keys, and what it adds to the text."""
    layer.rotary_emb = lambda _positions, query, key: (layer.query_ln(query), layer.key_ln(key))
    layer.register_forward_hook(lambda _layer, inputs, attended: layer.post_ln(attended + inputs[1]))


def alibi_slopes(heads: int) -> list[float]:
    """Return by how much each of so many *heads* lowers a score with each token of distance.

    A geometric series for a power of two; for other numbers every other one of the next power's is added.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * head / power) for head in range(1, power + 1)]
    return slopes if power == heads else slopes + alibi_slopes(2 * power)[: 2 * (heads - power) : 2]
