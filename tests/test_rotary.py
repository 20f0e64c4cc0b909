from typing import Any

import pytest
import transformers as hf

from handler.rotary import config_as_gte, config_as_llama, config_as_nomic, is_voyage


def test_a_gte_made_for_its_own_code_is_shown_as_transformers_gte() -> None:
    """The rest stays."""
    made = {"model_type": "new", "architectures": ["NewModel", "NewForTokenClassification"], "rope_theta": 20000}
    seen = config_as_gte(made | {"rope_scaling": None, "pack_qkv": True})
    kept = {"rope_theta": 20000, "rope_scaling": None, "pack_qkv": True}
    assert seen == {"model_type": "gte", "architectures": ["GteModel"], "position_embedding_type": "rope", **kept}


def test_a_gte_of_transformers_gets_the_kind_of_its_positions() -> None:
    """It does not write it, and vLLM looks for it."""
    seen = config_as_gte(
        {"model_type": "gte", "architectures": ["GteForMaskedLM"], "rope_parameters": {"rope_theta": 5}}
    )
    assert (seen["architectures"], seen["position_embedding_type"]) == (["GteModel"], "rope")
    assert seen["rope_parameters"] == {"rope_theta": 5}


def test_a_gte_whose_positions_are_scaled_as_published_is_shown_in_transformers_words() -> None:
    """By NTK's way the slowest pair of a head's numbers turns slower by the whole factor, the fastest hardly."""
    made: dict[str, Any] = {"model_type": "new", "architectures": ["NewModel"], "hidden_size": 64}
    made |= {"num_attention_heads": 2, "rope_theta": 500_000, "rope_scaling": {"type": "ntk", "factor": 8.0}}
    seen = config_as_gte(made)
    assert seen.keys().isdisjoint({"rope_theta", "rope_scaling"})
    rope = seen["rope_parameters"]
    assert rope["rope_type"] == "linear"
    fastest, slowest = (rope["rope_theta"] ** (-pair / 32) / rope["factor"] for pair in (0, 30))
    assert slowest == pytest.approx(500_000 ** (-30 / 32) / 8)
    assert fastest == pytest.approx(8 ** (-2 / 32))
    del made["rope_theta"]  # 10 000, then
    assert config_as_gte(made)["rope_parameters"]["rope_theta"] == 80_000


def test_a_gte_that_does_something_else_is_left_as_it_is() -> None:
    """Scaled positions, say, are computed by its own code only; a classifier is none of ours."""
    for other in (
        {"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"logn_attention_scale": True},
        {"pack_qkv": False},
    ):
        config = {"model_type": "new", "architectures": ["NewModel"], **other}
        assert config_as_gte(config) is config
    classifier = {"model_type": "new", "architectures": ["NewForSequenceClassification"]}
    assert config_as_gte(classifier) is classifier


def test_a_nomic_bert_made_for_its_own_code_keeps_the_base_of_its_positions() -> None:
    """Transformers has 1000 for all of them, whatever `rotary_emb_base` says, and vLLM what Transformers has."""
    made: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96, "layer_norm_epsilon": 1e-5}
    made |= {"rotary_emb_base": 10000, "activation_function": "swiglu", "model_type": "nomic_bert"}
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    positions: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000}}
    positions |= {"rotary_emb_scale_base": None, "rotary_emb_interleaved": False}
    assert config_as_nomic(made) == {**made, **sizes, **positions, "layer_norm_eps": 1e-5}


def test_a_nomic_bert_of_transformers_gets_the_words_that_vllm_looks_for() -> None:
    """Its own sizes and activation, and no biases, which it never has."""
    seen = config_as_nomic({"hidden_size": 64, "hidden_act": "silu", "rope_parameters": {"rope_theta": 5}})
    assert (seen["n_embd"], seen["n_layer"], seen["n_inner"], seen["layer_norm_epsilon"]) == (64, 12, 3072, 1e-12)
    assert (seen["activation_function"], seen["qkv_proj_bias"], seen["mlp_fc1_bias"]) == ("swiglu", False, False)
    assert seen["rope_parameters"] == {"rope_theta": 5}
    assert config_as_nomic({"hidden_act": "gelu"})["activation_function"] == "gelu"


def test_a_nomic_bert_that_says_nothing_of_its_size_has_that_of_transformers() -> None:
    """Whose defaults a config.json may leave out."""
    seen, default = config_as_nomic({"model_type": "nomic_bert"}), hf.NomicBertConfig()
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps"):
        assert seen[name] == getattr(default, name), name
    assert (seen["n_embd"], seen["n_head"]) == (default.hidden_size, default.num_attention_heads)
    assert (seen["qkv_proj_bias"], seen["mlp_fc1_bias"], seen["mlp_fc2_bias"]) == (False, False, False)
    assert seen["rotary_emb_interleaved"] is False


def test_a_llama_that_looks_to_both_sides_is_a_llama_to_transformers() -> None:
    """vLLM's class for it asks for a pooling, which a config may leave to the default of its code."""
    made = {"model_type": "llama_bidirec", "architectures": ["LlamaBidirectionalModel"], "hidden_size": 64}
    assert config_as_llama(made) == {**made, "model_type": "llama", "pooling": "avg"}
    assert config_as_llama({**made, "pooling": "last"})["pooling"] == "last"


@pytest.mark.parametrize(
    ("config", "whether"),
    [
        (
            {"model_type": "qwen3", "auto_map": {"AutoModel": "modeling_qwen3_bidirectional.Qwen3BidirectionalModel"}},
            True,
        ),
        ({"model_type": "qwen3", "auto_map": {"AutoModel": "modeling.Other"}}, False),
        ({"model_type": "qwen3", "auto_map": None}, False),
        ({"model_type": "qwen3"}, False),
        ({"model_type": "qwen2", "auto_map": {"AutoModel": "modeling.Qwen3BidirectionalModel"}}, False),
    ],
)
def test_voyage_is_told_by_its_code(config: dict[str, Any], whether: bool) -> None:  # noqa: FBT001 - a result
    """Other models of its type are Qwen3's own."""
    assert is_voyage(config) is whether
