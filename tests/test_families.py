from typing import Any

import pytest

from handler.errors import StartError
from handler.families import check_family


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"model_type": "umt5"},
            "no encoder with a bias of its own in each layer; .*: multilingual-e5-base",
        ),
        ({"model_type": "t5", "feed_forward_proj": "gated-silu"}, r"config\.json: feed_forward_proj=gated-silu, of"),
        ({"model_type": "deberta-v2"}, "DeBERTa's relative positions; not served, take another model: gte"),
        ({"model_type": "jina_embeddings_v3"}, "no class for jina-embeddings-v3"),
        (
            {"model_type": "qwen3", "architectures": ["JinaEmbeddingsV5Model"]},
            "adapters of jina-embeddings-v5, .*; not served, take another model: jina-embeddings-v5-text-small-r",
        ),
        (
            {"model_type": "bert", "position_embedding_type": "alibi", "feed_forward_type": "reglu"},
            r"config\.json: feed_forward_type=reglu, of which only geglu is computed here; not served",
        ),
        ({"model_type": "bert", "position_embedding_type": "alibi"}, "feed_forward_type=None, of which only geglu"),
        (
            {
                "model_type": "bert",
                "position_embedding_type": "alibi",
                "architectures": ["JinaBertForSequenceClassification"],
            },
            "JinaBertForSequenceClassification scores pairs of texts and embeds none; not served",
        ),
        ({"model_type": "xlm-roberta", "position_embedding_type": "alibi"}, "no xlm-roberta with alibi positions"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "no bert with relative_key positions"),
        (
            {"model_type": "xlm-roberta", "position_embedding_type": "rotary"},
            "adapters of jina-embeddings-v3: it takes",
        ),
        ({"model_type": "bert", "is_decoder": True}, r"config\.json: is_decoder, but vLLM's bert looks to both sides"),
        ({"model_type": "roberta", "pad_token_id": 0, "bos_token_id": 0}, "pad_token_id is also the beginning's"),
        ({"model_type": "camembert", "pad_token_id": 2, "eos_token_id": 2}, "pad_token_id is also the beginning's"),
        ({"model_type": "xmod"}, "positions of xmod models from 0"),
        (
            {"model_type": "nomic_bert", "rotary_scaling_factor": 2.0},
            r"rotary_scaling_factor=2\.0, which vLLM does not",
        ),
        *(
            ({"model_type": "albert", choice: 2}, f"config.json: .*{choice}.*, of which only 1 is computed here")
            for choice in ("num_hidden_groups", "inner_group_num")
        ),
        *(
            ({"model_type": "nomic_bert", choice: True}, f"{choice}=True, which vLLM does not compute; not served")
            for choice in ("prenorm", "parallel_block", "use_rms_norm", "causal", "moe_normalize_expert_weights")
        ),
    ],
)
def test_what_vllm_does_not_compute_is_refused_by_name(config: dict[str, Any], said: str) -> None:
    """With what is lacking, and with another model to take where a family is."""
    with pytest.raises(StartError, match=said):
        check_family(config)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "bert", "position_embedding_type": "absolute", "is_decoder": False},
        {"model_type": "bert", "position_embedding_type": None},
        {"model_type": "t5", "feed_forward_proj": "relu", "is_encoder_decoder": True},
        {"model_type": "mt5", "feed_forward_proj": "gated-gelu", "pad_token_id": 0},
        {"model_type": "bert", "position_embedding_type": "alibi", "feed_forward_type": "geglu"},
        {"model_type": "xlm-roberta", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
        {"model_type": "xlm-roberta"},
        {"model_type": "albert", "num_hidden_groups": 1, "inner_group_num": 1, "position_embedding_type": "absolute"},
        {"model_type": "albert"},
        {"model_type": "nomic_bert", "rotary_scaling_factor": None, "prenorm": False, "causal": False},
        {"model_type": "gte", "position_embedding_type": "rope"},
        {"model_type": "qwen2", "pad_token_id": 0, "bos_token_id": 0, "is_decoder": True, "causal": True},
    ],
)
def test_what_vllm_computes_passes(config: dict[str, Any]) -> None:
    """As published models say it, or leave it out."""
    check_family(config)
