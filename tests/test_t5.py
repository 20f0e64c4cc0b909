from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from torch.nn.functional import gelu, relu

from handler.biased_attention import COMPUTED_AS
from handler.t5 import compute_t5, t5_as_llama, t5_problem, weights_as_llama

SIZES = {"d_model": 8, "d_kv": 4, "d_ff": 6, "num_layers": 2, "num_heads": 4, "vocab_size": 5}
LAYER = ("input_layernorm", "post_attention_layernorm", *(f"self_attn.{name}_proj" for name in "qkvo"))


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({}, None),
        ({"feed_forward_proj": "gated-gelu"}, None),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj=gated-silu, of which only relu, gated-gelu"),
        ({"relative_attention_num_buckets": 64}, "relative_attention_num_buckets=64, of which only 32"),
        ({"relative_attention_max_distance": 20}, "relative_attention_max_distance=20, of which only 128"),
    ],
)
def test_what_of_its_configuration_is_not_computed(config: dict[str, Any], problem: str | None) -> None:
    """No model for embedding is known to have it."""
    said = t5_problem(config)
    assert said == (problem and f"{problem} are computed here")


def test_its_sizes_in_llamas_words() -> None:
    """As Transformers' defaults where they are left out."""
    seen = t5_as_llama({"model_type": "t5", "is_encoder_decoder": True, "matryoshka_dimensions": [4], **SIZES})
    assert (seen["hidden_size"], seen["head_dim"], seen["intermediate_size"]) == (8, 4, 6)
    assert (seen["num_hidden_layers"], seen["num_attention_heads"], seen["num_key_value_heads"]) == (2, 4, 4)
    assert (seen["model_type"], seen["architectures"]) == ("llama", ["LlamaBidirectionalModel"])
    assert (seen["vocab_size"], seen["matryoshka_dimensions"], seen[COMPUTED_AS]) == (5, [4], "t5")
    assert "is_encoder_decoder" not in seen
    default, left_out = hf.T5Config(), t5_as_llama({})
    assert left_out["hidden_size"] == default.d_model
    assert left_out["head_dim"] == default.d_kv
    assert left_out["intermediate_size"] == default.d_ff
    assert left_out["num_hidden_layers"] == default.num_layers
    assert left_out["num_attention_heads"] == default.num_heads
    assert left_out["rms_norm_eps"] == default.layer_norm_epsilon
    assert left_out["feed_forward_proj"] == default.feed_forward_proj
    assert left_out["max_position_embeddings"] == 512


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
def test_every_weight_of_the_encoder_gets_llamas_name(feed_forward: str) -> None:
    """The decoder is left out, and a head; one bias is everyone's."""
    config = hf.T5Config(**{**SIZES, "num_layers": 12}, feed_forward_proj=feed_forward)
    weights = hf.T5ForConditionalGeneration(config).state_dict()
    renamed = {name for name, _ in weights_as_llama(weights.items())}
    mlp = ("gate_proj", "down_proj", *(["up_proj"] if feed_forward == "gated-gelu" else []))
    layer = (*LAYER, *(f"mlp.{name}" for name in mlp))
    layers = {f"layers.{index}.{name}.weight" for index in range(12) for name in layer}
    assert renamed == layers | {"embed_tokens.weight", "norm.weight", "relative_attention_bias.weight"}


class Wide(torch.nn.Module):
    """What there is of vLLM's layer that widens."""

    def __init__(self, input_size: int, output_sizes: list[int], *, bias: bool, prefix: str) -> None:
        """Remember the sizes."""
        super().__init__()
        self.input_size, self.output_size, self.bias, self.prefix = input_size, sum(output_sizes), bias, prefix


def computed(feed_forward: str) -> Any:
    """Have what there is of vLLM's Llama compute T5, and return it."""

    def layer() -> Any:
        mlp: Any = torch.nn.Module()
        mlp.act_fn, mlp.gate_up_proj = torch.nn.Identity(), Wide(8, [6, 6], bias=False, prefix="layers.0.mlp")
        own: Any = torch.nn.Module()
        own.rotary_emb, own.attn = torch.nn.Identity(), SimpleNamespace(impl=SimpleNamespace())
        own.num_heads = own.total_num_heads = 4
        own.scaling, own.qkv_proj = 0.5, SimpleNamespace(tp_rank=0)
        return SimpleNamespace(mlp=mlp, self_attn=own)

    inner = SimpleNamespace(layers=[layer(), layer()])
    model = SimpleNamespace(model=inner, config=SimpleNamespace(feed_forward_proj=feed_forward))
    compute_t5(model)
    return inner


@pytest.mark.parametrize(("feed_forward", "width"), [("relu", 6), ("gated-gelu", 12)])
def test_the_feed_forward_layer(feed_forward: str, width: int) -> None:
    """One matrix and ReLU, or two and the gate's approximate GELU; in every layer."""
    both = torch.randn(3, width)
    expected = relu(both) if width == 6 else gelu(both[:, :6], approximate="tanh") * both[:, 6:]
    for layer in computed(feed_forward).layers:
        assert layer.mlp.gate_up_proj.output_size == width
        assert (layer.mlp.gate_up_proj.input_size, layer.mlp.gate_up_proj.bias) == (8, False)
        assert layer.mlp.gate_up_proj.prefix == "layers.0.mlp"
        assert torch.equal(layer.mlp.act_fn(both), expected)


def test_scores_are_not_scaled_and_get_the_bias() -> None:
    """By every layer, without a rotation."""
    inner = computed("relu")
    query, key, value = torch.randn(3, 20, 4, 4)
    theirs = hf.models.t5.modeling_t5.T5Attention(hf.T5Config(**SIZES, is_decoder=False), True)  # noqa: FBT003
    theirs.relative_attention_bias.weight.data = inner.relative_attention_bias.weight.data
    bias = theirs.compute_bias(20, 20)[0]
    expected = torch.einsum("hqk,khw->qhw", (torch.einsum("qhw,khw->hqk", query, key) + bias).softmax(-1), value)
    for layer in inner.layers:
        assert layer.self_attn.rotary_emb(None, "query", "key") == ("query", "key")
        output = torch.zeros(20, 4, 4)
        metadata = SimpleNamespace(query_start_loc=torch.tensor([0, 20]))
        with torch.inference_mode():
            layer.self_attn.attn.impl.forward(None, query, key, value, None, metadata, output)
        assert torch.allclose(output, expected, atol=1e-5)
