"""Encoders with rotary positions, GTE's, Nomic's and others', in the words that vLLM's classes look for in config.json.

Their repositories were made for Python code of their own. Transformers 5 has GTE and Nomic BERT itself, computes the
same and writes other words; vLLM 0.32 knows some of either. It has classes for Llamas and Qwen3s that look to both
sides, too, but goes by other names than these give. So each gets what is missing, and needs no code.
Source: vllm/model_executor/models/config.py, bert_with_rope.py, llama.py and voyage.py; configuration_gte.py and
configuration_nomic_bert.py of Transformers 5.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

# Nomic's words -> Transformers'.
_SIZES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "layer_norm_epsilon": "layer_norm_eps",
}
# What Transformers' Nomic BERT always is, and its defaults.
_NATIVE: Json = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
}
_ROTATION: Json = {"rotary_emb_scale_base": None, "rotary_emb_interleaved": False}  # what either is without a word
# What the code of `NewModel` may be told to do that Transformers' GTE does not, and what it does.
_GTE: Json = {
    "position_embedding_type": "rope",
    "hidden_act": "gelu",
    "layer_norm_type": "layer_norm",
    "pack_qkv": True,
    "logn_attention_scale": False,
}
_VOYAGE_CODE = "Qwen3BidirectionalModel"
LLAMA_BOTH_SIDES = "llama_bidirec"


def is_voyage(config: Json) -> bool:
    """Whether *config* is that of voyage-4-nano, which says that it is a Qwen3: only the name of its Python tells."""
    code = (config.get("auto_map") or {}).get("AutoModel")
    return config.get("model_type") == "qwen3" and str(code).endswith(_VOYAGE_CODE)


def config_as_voyage(config: Json) -> Json:
    """Name the class that looks to both sides and has a matrix behind its layers."""
    return config | {"architectures": ["VoyageQwen3BidirectionalEmbedModel"]}


def config_as_llama(config: Json) -> Json:
    """Name Llama's type in a *config* of NVIDIA's, whose class vLLM has, and the default of its pooling."""
    return {"pooling": "avg", **config, "model_type": "llama"}


def config_as_gte(config: Json) -> Json:
    """Name GTE's class and its kind of positions.

    A *config* of a classifier, or one that asks for what Transformers' GTE does not do, is left as it is.
    """
    classifies = str((config.get("architectures") or [""])[0]).endswith("ForSequenceClassification")
    scaling = {name: value for name, value in (config.get("rope_scaling") or {}).items() if value is not None}
    by_ntk = scaling.get("type") == "ntk" and scaling.keys() == {"type", "factor"}
    if classifies or (scaling and not by_ntk) or any(config.get(name, plain) != plain for name, plain in _GTE.items()):
        return config
    known: Json = {"model_type": "gte", "architectures": ["GteModel"], "position_embedding_type": "rope"}
    if not by_ntk:
        return config | known
    known["rope_parameters"] = _scaled_by_ntk(config, float(scaling["factor"]))
    return {name: value for name, value in config.items() if name not in {"rope_scaling", "rope_theta"}} | known


def _scaled_by_ntk(config: Json, factor: float) -> Json:
    """Return Transformers' words for what GTE's own code does: a longer base, and all positions a little nearer.

    Source: NTKScalingRotaryEmbedding in vllm/model_executor/layers/rotary_embedding/ntk_scaling_rope.py.
    """
    head_size = config["hidden_size"] // config["num_attention_heads"]
    base = config.get("rope_theta", 10000.0)
    return {"rope_type": "linear", "factor": factor ** (2 / head_size), "rope_theta": base * factor}


def config_as_nomic(config: Json) -> Json:
    """Give a Nomic BERT's *config* both kinds of words, and the base of its positions, which vLLM would not find."""
    if "n_embd" in config:
        named = {ours: config[theirs] for theirs, ours in _SIZES.items() if config.get(theirs) is not None}
        if base := config.get("rotary_emb_base"):
            named["rope_parameters"] = {"rope_type": "default", "rope_theta": base}
        return {**_ROTATION, **named, **config}
    native = {**_ROTATION, **_NATIVE, **config}
    activation = native.get("hidden_act", "silu")
    native["activation_function"] = "swiglu" if activation == "silu" else activation
    return native | {theirs: native[ours] for theirs, ours in _SIZES.items()}
