from types import SimpleNamespace
from typing import Any

import pytest
import torch

from handler.as_bert import albert_as_bert, distilbert_as_bert, mpnet_as_bert, weights_as_bert
from handler.renaming import rename_weights

# Where the layers are, and the names of one, as each family's files have them and as vLLM's BERT takes them.
LAYERS = {
    "distilbert": (
        "transformer.layer",
        {
            "attention.q_lin": "attention.self.query",
            "attention.k_lin": "attention.self.key",
            "attention.v_lin": "attention.self.value",
            "attention.out_lin": "attention.output.dense",
            "sa_layer_norm": "attention.output.LayerNorm",
            "ffn.lin1": "intermediate.dense",
            "ffn.lin2": "output.dense",
            "output_layer_norm": "output.LayerNorm",
        },
    ),
    "mpnet": (
        "encoder.layer",
        {
            "attention.attn.q": "attention.self.query",
            "attention.attn.k": "attention.self.key",
            "attention.attn.v": "attention.self.value",
            "attention.attn.o": "attention.output.dense",
            "attention.LayerNorm": "attention.output.LayerNorm",
            "intermediate.dense": "intermediate.dense",
            "output.dense": "output.dense",
            "output.LayerNorm": "output.LayerNorm",
        },
    ),
}
WORDS, POSITIONS = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
BIAS = "encoder.relative_attention_bias.weight"


def names(family: str, *theirs: str) -> list[str]:
    """What becomes of weights that are called so."""
    return [name for name, _ in weights_as_bert(((name, torch.ones(3, 2)) for name in theirs), family=family)]


@pytest.mark.parametrize("family", LAYERS)
def test_every_weight_of_a_layer_gets_berts_name(family: str) -> None:
    """Weights and biases, of layers with more than one digit too, and with the model's name in front."""
    layers, layer = LAYERS[family]
    for kind in ("weight", "bias"):
        for theirs, berts in layer.items():
            for base in ("", f"{family}."):
                assert names(family, f"{base}{layers}.11.{theirs}.{kind}") == [f"encoder.layer.11.{berts}.{kind}"]


def test_mpnets_positions_are_counted_from_the_first_that_a_text_has() -> None:
    """Two before it are taken away, of the weights and of their number; the bias keeps its name."""
    ((name, kept),) = weights_as_bert([(f"mpnet.{POSITIONS}", torch.arange(5)[:, None])], family="mpnet")
    assert (name, kept.flatten().tolist()) == (POSITIONS, [2, 3, 4])
    assert names("mpnet", f"mpnet.{BIAS}", "embeddings.position_ids") == [BIAS]
    config = {"model_type": "mpnet", "architectures": ["MPNetForMaskedLM"], "max_position_embeddings": 514}
    seen = {"architectures": ["BertModel"], "max_position_embeddings": 512, "type_vocab_size": 1}
    assert mpnet_as_bert(config) == {**config, **seen}
    assert (
        mpnet_as_bert({})["max_position_embeddings"] == 510
    )  # where the key is left out, Transformers' default counts


def test_albert_has_one_layer_and_words_of_their_own_width() -> None:
    """Its only layer becomes the first; its token types stay."""
    layer = {
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.dense": "attention.output.dense",
        "attention.LayerNorm": "attention.output.LayerNorm",
        "ffn": "intermediate.dense",
        "ffn_output": "output.dense",
        "full_layer_layer_norm": "output.LayerNorm",
    }
    for base in ("", "albert."):
        for theirs, berts in layer.items():
            named = f"{base}encoder.albert_layer_groups.0.albert_layers.0.{theirs}.bias"
            assert names("albert", named) == [f"encoder.layer.0.{berts}.bias"]
        assert names("albert", f"{base}encoder.embedding_hidden_mapping_in.bias") == ["embeddings.widen.bias"]
        types = "embeddings.token_type_embeddings.weight"
        assert names("albert", base + WORDS, base + types) == [WORDS, types]
    assert names("albert", "predictions.bias", "albert.pooler.weight", "albert.embeddings.position_ids") == []
    config = {"model_type": "albert", "architectures": ["AlbertForMaskedLM"], "embedding_size": 32, "hidden_size": 64}
    seen = {"architectures": ["BertModel"], "word_size": 32, "embedding_size": 64}
    assert albert_as_bert(config, dense_size=None) == {**config, **seen}
    assert albert_as_bert(config, dense_size=48) == {**config, **seen, "embedding_size": 48}
    left_out = albert_as_bert({}, dense_size=None)  # Transformers' defaults count
    assert (left_out["word_size"], left_out["embedding_size"]) == (128, 4096)


def test_the_embeddings_get_a_token_type_that_adds_nothing() -> None:
    """One row, as wide as a word and of its type."""
    words = torch.ones(5, 4, dtype=torch.bfloat16)
    (_, same), (name, added) = weights_as_bert([(f"distilbert.{WORDS}", words)], family="distilbert")
    assert same is words
    assert name == "embeddings.token_type_embeddings.weight"
    assert added.dtype == torch.bfloat16
    assert torch.equal(added, torch.zeros(1, 4, dtype=torch.bfloat16))
    assert names("distilbert", POSITIONS, "embeddings.LayerNorm.bias") == [POSITIONS, "embeddings.LayerNorm.bias"]


def test_heads_of_other_tasks_are_left_out() -> None:
    """An embedding does not pass them."""
    heads = ("vocab_transform.weight", "vocab_projector.bias", "pre_classifier.weight", "qa_outputs.bias")
    assert names("distilbert", *heads) == []
    assert names("mpnet", "lm_head.dense.weight", "pooler.dense.bias", "classifier.dense.weight") == []


def test_berts_words_are_added_to_the_config() -> None:
    """Where a key is left out, Transformers' default counts."""
    config = {"model_type": "distilbert", "architectures": ["DistilBertForMaskedLM"], "dim": 64}
    added = {"architectures": ["BertModel"], "layer_norm_eps": 1e-12, "type_vocab_size": 1}
    assert distilbert_as_bert(config) == {**config, **added, "hidden_act": "gelu", "intermediate_size": 3072}
    chosen = distilbert_as_bert({**config, "activation": "relu", "hidden_dim": 96})
    assert (chosen["hidden_act"], chosen["intermediate_size"]) == ("relu", 96)


def loaded(model_type: str | None) -> list[str]:
    """Load one weight into what a stand-in for vLLM's module makes, and return the names that came."""
    config = SimpleNamespace(model_type=model_type, architectures=["BertModel"]) if model_type else None
    came: list[str] = []

    class Model:
        def __init__(self) -> None:
            self.config = config

        def load_weights(self, weights: Any) -> None:
            came.extend(name for name, _ in weights)

    module = SimpleNamespace(initialize_model=lambda **_: Model())
    rename_weights(module)
    module.initialize_model(vllm_config=None).load_weights([(WORDS, torch.ones(3, 2))])
    return came


def test_only_distilberts_weights_are_changed() -> None:
    """Every other model gets its own as they are."""
    assert loaded("distilbert") == [WORDS, "embeddings.token_type_embeddings.weight"]
    assert loaded("bert") == [WORDS]
    assert loaded(None) == [WORDS]
