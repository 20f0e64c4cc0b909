from types import SimpleNamespace
from typing import Any

import pytest
import torch

from handler.biased_attention import COMPUTED_AS
from handler.jina import JINA, JINA_CODE, alibi_slopes, attend_by_distance, is_jina, jina_as_gte, weights_as_gte
from tests.networks import CodeLayer, JinaBert

CONFIG = {"model_type": "bert", "position_embedding_type": "alibi", "hidden_size": 64, "num_attention_heads": 2}
SIZES = SimpleNamespace(
    **CONFIG, intermediate_size=96, layer_norm_eps=1e-12, vocab_size=5, type_vocab_size=2, num_hidden_layers=12
)
# What vLLM's GTE and what is added to it have in each layer, under the names that its own mapping then shortens.
PARTS = ("attention.qkv_proj", "attention.o_proj", "attn_ln", "mlp.down_proj", "mlp_ln")
ADDED = ("attn.query_ln", "attn.key_ln", "attn.post_ln")
EMBEDDINGS = {
    "embeddings.word_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
    "embeddings.LayerNorm.weight",
    "embeddings.LayerNorm.bias",
}


@pytest.mark.parametrize(
    ("config", "whether"),
    [(CONFIG, True), ({"model_type": "bert"}, False), ({**CONFIG, "model_type": "xlm-roberta"}, False)],
)
def test_it_is_a_bert_without_positions(config: dict[str, Any], whether: bool) -> None:  # noqa: FBT001 - a result
    """No other model of that type has linear biases."""
    assert is_jina(config) is whether


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"auto_map": {"AutoModel": "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel"}}, JINA),
        ({"auto_map": {"AutoModel": "jinaai/jina-bert-v2-qk-post-norm--modeling_bert.JinaBertModel"}}, JINA_CODE),
        ({"_name_or_path": "jinaai/jina-bert-v2-qk-post-norm"}, JINA_CODE),
        ({}, JINA),
    ],
)
def test_vllm_sees_a_gte(said: dict[str, Any], kind: str) -> None:
    """Which of the two it is, is said by the place of the Python that was made for it."""
    seen = jina_as_gte({**CONFIG, **said})
    assert (seen["model_type"], seen["architectures"]) == ("gte", ["GteModel"])
    assert (seen["position_embedding_type"], seen["hidden_act"]) == ("rope", "gelu")
    assert (seen[COMPUTED_AS], seen["hidden_size"]) == (kind, 64)


@pytest.mark.parametrize("base", ["", "bert."])
@pytest.mark.parametrize("kind", [JINA, JINA_CODE])
def test_every_weight_gets_gtes_name(kind: str, base: str) -> None:
    """Of layers with two digits too, and with the model's name in front; heads and the pooler are left out."""
    weights = JinaBert(SIZES, code=kind == JINA_CODE).state_dict()
    others = {"cls.predictions.bias": torch.ones(5), f"{base}pooler.dense.weight": torch.ones(64, 64)}
    named = {f"{base}{name}": value for name, value in weights.items()} | others
    renamed = dict(weights_as_gte(named.items(), kind=kind))
    parts = (*PARTS, *ADDED) if kind == JINA_CODE else PARTS
    wide = ("mlp.up_gate_proj.weight",) if kind == JINA_CODE else ("mlp.up_proj.weight", "mlp.gate_proj.weight")
    layers = {
        f"encoder.layer.{layer}.{name}"
        for layer in range(12)
        for name in (*(f"{part}.{what}" for part in parts for what in ("weight", "bias")), *wide)
    }
    assert set(renamed) == EMBEDDINGS | layers


def test_queries_keys_and_values_are_one_whatever_came_first() -> None:
    """In the order that vLLM splits them in; one that is missing leaves out all, which vLLM then misses."""
    parts = {"query": 1.0, "key": 2.0, "value": 3.0}
    own = "encoder.layer.0.attention.self"
    weights = [(f"{own}.{name}.bias", torch.full((2,), value)) for name, value in parts.items()]
    for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        ((name, stacked),) = weights_as_gte([weights[index] for index in order], kind=JINA)
        assert name == "encoder.layer.0.attention.qkv_proj.bias"
        assert stacked.tolist() == [1, 1, 2, 2, 3, 3]
    assert list(weights_as_gte(weights[:2], kind=JINA)) == []


@pytest.mark.parametrize("kind", [JINA, JINA_CODE])
def test_weights_of_the_other_model_are_refused(kind: str) -> None:
    """A copy may have lost the place of its Python, by which they are told."""
    weights = JinaBert(SIZES, code=kind == JINA).state_dict()
    with pytest.raises(ValueError, match=r"auto_map in config\.json must name jina-bert-v2-qk-post-norm for"):
        dict(weights_as_gte(weights.items(), kind=kind))


def test_the_first_half_goes_through_the_activation() -> None:
    """The gate is what does; in the model for code it is the second half, as vLLM expects of GTE."""
    wide = torch.arange(4.0)[:, None]
    renamed = dict(weights_as_gte([("encoder.layer.0.mlp.gated_layers.weight", wide)], kind=JINA))
    assert renamed["encoder.layer.0.mlp.gate_proj.weight"].tolist() == [[0], [1]]
    assert renamed["encoder.layer.0.mlp.up_proj.weight"].tolist() == [[2], [3]]


@pytest.mark.parametrize(
    ("heads", "exponents"),
    [
        (1, [8]),
        (2, [4, 8]),
        (3, [4, 8, 2]),
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),
    ],
)
def test_slopes(heads: int, exponents: list[float]) -> None:
    """Those of the paper for powers of two, and every other one of the next power's behind them."""
    assert alibi_slopes(heads) == pytest.approx([2**-exponent for exponent in exponents])


def attention(*, rank: int, workers: int) -> Any:
    """Make what there is of one of vLLM's attention layers in a worker."""
    module: Any = torch.nn.Module()
    module.rotary_emb = torch.nn.Identity()
    module.qkv_proj = SimpleNamespace(tp_rank=rank)
    module.total_num_heads, module.num_heads, module.scaling = 4, 4 // workers, 1.0
    module.attn = SimpleNamespace(impl=SimpleNamespace())
    return module


def model(kind: str, layers: list[Any]) -> Any:
    """Make what there is of vLLM's GTE around them."""
    config = SimpleNamespace(hidden_size=64, layer_norm_eps=1e-12, **{COMPUTED_AS: kind})
    encoder = SimpleNamespace(layers=[SimpleNamespace(attn=layer) for layer in layers])
    return SimpleNamespace(config=config, encoder=encoder)


def test_each_worker_takes_the_slopes_of_its_own_heads() -> None:
    """Where nothing else is in the scores, a token sees its neighbours by their distance alone."""
    places = torch.eye(3).expand(2, 3, 3).transpose(0, 1)  # (tokens, heads, width): the value tells the token
    for rank in range(2):
        layer = attention(rank=rank, workers=2)
        attend_by_distance(model(JINA, [layer]))
        assert layer.rotary_emb(None, "query", "key") == ("query", "key")
        output = torch.zeros(3, 2, 3)
        metadata = SimpleNamespace(query_start_loc=torch.tensor([0, 3]))
        layer.attn.impl.forward(None, torch.zeros(3, 2, 3), torch.zeros(3, 2, 3), places, None, metadata, output)
        for head, exponent in enumerate([2, 4] if rank == 0 else [6, 8]):
            scores = -torch.tensor([1.0, 0.0, 1.0]) * 2**-exponent
            assert torch.allclose(output[1, head], scores.softmax(dim=0), atol=1e-6)


def test_the_model_for_code_norms_more() -> None:
    """Queries, keys, and what the attention adds to the text, as its authors' layer does."""
    theirs = CodeLayer(SIZES)
    layer = attention(rank=0, workers=1)
    layer.forward = lambda _positions, states: theirs.attention["output"]["dense"](states)
    attend_by_distance(model(JINA_CODE, [layer]))
    own, out = theirs.attention["self"], theirs.attention["output"]
    norms = {"query_ln": own["layer_norm_q"], "key_ln": own["layer_norm_k"], "post_ln": out["LayerNorm"]}
    for ours, norm in norms.items():
        torch.nn.init.normal_(norm.weight)
        getattr(layer, ours).load_state_dict(norm.state_dict())
    states, other = torch.randn(2, 3, 64)
    query, key = layer.rotary_emb(None, states, other)
    assert torch.allclose(query, own["layer_norm_q"](states))
    assert torch.allclose(key, own["layer_norm_k"](other))
    assert torch.allclose(layer(None, states), out["LayerNorm"](out["dense"](states) + states))
