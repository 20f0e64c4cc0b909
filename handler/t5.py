"""T5's encoder (sentence-t5, gtr-t5) as the Llama that looks to both sides, with a learned bias instead of positions.

vLLM 0.32 has no T5. Its layers have the parts of a Llama's: norms by the root mean square in front, no biases. So
config.json names vLLM's class for those, whose rotation of positions goes out, the bias of the distances comes in, and
the weights get that class's names while they are loaded. The decoder is left out.
Source: transformers/models/t5/modeling_t5.py, vllm/model_executor/models/llama.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from handler.biased_attention import (
    BUCKETS,
    COMPUTED_AS,
    FARTHEST,
    attend_with_bias,
    learned_bias,
    without_rotation,
)

Json = dict[str, Any]

T5 = "t5"
T5S = {T5, "mt5"}  # umt5 has a bias in every layer
_GATED = "gated-gelu"
_PLAIN = "relu"
_KEPT = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "matryoshka_dimensions", "is_matryoshka")
_NAMES = {
    "encoder.block.": "layers.",
    "encoder.final_layer_norm.": "norm.",
    "encoder.embed_tokens.": "embed_tokens.",
    "shared.": "embed_tokens.",
    ".layer.0.SelfAttention.relative_attention_bias.": ".relative_attention_bias.",
    ".layer.0.SelfAttention.q.": ".self_attn.q_proj.",
    ".layer.0.SelfAttention.k.": ".self_attn.k_proj.",
    ".layer.0.SelfAttention.v.": ".self_attn.v_proj.",
    ".layer.0.SelfAttention.o.": ".self_attn.o_proj.",
    ".layer.0.layer_norm.": ".input_layernorm.",
    ".layer.1.DenseReluDense.wi.": ".mlp.gate_proj.",
    ".layer.1.DenseReluDense.wi_0.": ".mlp.gate_proj.",
    ".layer.1.DenseReluDense.wi_1.": ".mlp.up_proj.",
    ".layer.1.DenseReluDense.wo.": ".mlp.down_proj.",
    ".layer.1.layer_norm.": ".post_attention_layernorm.",
    "layers.0.relative_attention_bias.": "relative_attention_bias.",  # the first layer's is everyone's
}


def t5_problem(config: Json) -> str | None:
    """Say which choice in a T5's *config* is not computed here, None where there is none."""
    computed: dict[str, tuple[Any, ...]] = {
        "feed_forward_proj": (_PLAIN, _GATED),
        "relative_attention_num_buckets": (BUCKETS,),
        "relative_attention_max_distance": (FARTHEST,),
    }
    wrong = next((name for name, known in computed.items() if config.get(name, known[0]) not in known), None)
    if wrong is None:
        return None
    return f"{wrong}={config[wrong]}, of which only {', '.join(map(str, computed[wrong]))} are computed here"


def t5_as_llama(config: Json) -> Json:
    """Write a T5's *config* in Llama's words.

    Numbers are in bfloat16 where vLLM chooses, on GPUs: in float16 those of T5 overflow.
    """
    heads = config.get("num_heads", 8)
    return {name: config[name] for name in _KEPT if name in config} | {
        "model_type": "llama",
        "architectures": ["LlamaBidirectionalModel"],
        "pooling": "avg",
        "hidden_size": config.get("d_model", 512),
        "head_dim": config.get("d_kv", 64),
        "intermediate_size": config.get("d_ff", 2048),
        "num_hidden_layers": config.get("num_layers", 6),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "rms_norm_eps": config.get("layer_norm_epsilon", 1e-6),
        "max_position_embeddings": config.get("n_positions", 512),
        "dtype": "bfloat16",
        "feed_forward_proj": config.get("feed_forward_proj", _PLAIN),
        COMPUTED_AS: T5,
    }


def weights_as_llama(weights: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Rename the encoder's weights, and leave out the others."""
    for name, tensor in weights:
        if not name.startswith(("encoder.", "shared.")):
            continue
        renamed = name
        for theirs, llamas in _NAMES.items():
            renamed = renamed.replace(theirs, llamas)
        yield renamed, tensor


def compute_t5(model: Any) -> None:
    """Have vLLM's Llama *model* compute T5's attention and feed-forward layers."""
    from torch.nn.functional import gelu, relu  # noqa: PLC0415 - importing it takes seconds

    gated = model.config.feed_forward_proj == _GATED
    inner = model.model
    layers = [layer.self_attn for layer in inner.layers]
    for layer in layers:
        without_rotation(layer)
    layers[0].scaling = 1.0  # T5's weights were made for scores that are not scaled
    attend_with_bias(layers, learned_bias(inner, layers[0]))

    def activate_gate(both: Any) -> Any:
        gate, plain = both.chunk(2, dim=-1)
        return gelu(gate, approximate="tanh") * plain

    for layer in inner.layers:
        mlp = layer.mlp
        del mlp.act_fn  # a module, where a function takes its place
        mlp.act_fn = activate_gate if gated else relu
        if not gated:
            wide = mlp.gate_up_proj
            mlp.gate_up_proj = type(wide)(wide.input_size, [wide.output_size // 2], bias=False, prefix=wide.prefix)
