"""DistilBERT, MPNet and ALBERT as the BERT that they nearly are, with other names for the same layers.

vLLM 0.32 has no class for them. Its general one finds the layer of an attention by `layer_idx`, which Transformers 5
gives to none of them, and refuses them. So config.json names vLLM's BERT, and the weights get that class's names while
they are loaded, whichever loader reads them. What MPNet adds to its scores is in `mpnet`, how ALBERT saves weights in
`albert`.
Source: transformers/models/distilbert/modeling_distilbert.py, mpnet/modeling_mpnet.py and albert/modeling_albert.py,
vllm/model_executor/models/bert.py and transformers/base.py, `_create_attention_instances`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from handler.albert import ALBERT, WORD_SIZE
from handler.mpnet import MPNET

Json = dict[str, Any]

DISTILBERT = "distilbert"
MPNET_POSITION = 2  # its positions begin behind its padding id, which is 1 in all of them
_WORDS, _TOKEN_TYPES = "embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight"
_POSITIONS = "embeddings.position_embeddings.weight"


@dataclass(frozen=True, slots=True)
class _Names:
    """What a family calls its weights."""

    base: str  # in front of every name where the checkpoint was saved with a head
    parts: tuple[str, ...]  # the rest is heads of other tasks and a pooler, which an embedding does not pass
    berts: dict[str, str]  # its name -> BERT's
    first_position: int = 0
    has_token_types: bool = False


_NAMES = {
    DISTILBERT: _Names(
        "distilbert.",
        ("embeddings.", "transformer."),
        {
            "transformer.layer.": "encoder.layer.",
            ".attention.q_lin.": ".attention.self.query.",
            ".attention.k_lin.": ".attention.self.key.",
            ".attention.v_lin.": ".attention.self.value.",
            ".attention.out_lin.": ".attention.output.dense.",
            ".sa_layer_norm.": ".attention.output.LayerNorm.",
            ".ffn.lin1.": ".intermediate.dense.",
            ".ffn.lin2.": ".output.dense.",
            ".output_layer_norm.": ".output.LayerNorm.",
        },
    ),
    MPNET: _Names(
        "mpnet.",
        ("embeddings.", "encoder."),
        {
            ".attention.LayerNorm.": ".attention.output.LayerNorm.",
            ".attention.attn.q.": ".attention.self.query.",
            ".attention.attn.k.": ".attention.self.key.",
            ".attention.attn.v.": ".attention.self.value.",
            ".attention.attn.o.": ".attention.output.dense.",
        },
        MPNET_POSITION,
    ),
    ALBERT: _Names(
        "albert.",
        ("embeddings.", "encoder."),
        {
            "encoder.embedding_hidden_mapping_in.": "embeddings.widen.",
            "encoder.albert_layer_groups.0.albert_layers.": "encoder.layer.",
            ".attention.query.": ".attention.self.query.",
            ".attention.key.": ".attention.self.key.",
            ".attention.value.": ".attention.self.value.",
            ".attention.dense.": ".attention.output.dense.",
            ".attention.LayerNorm.": ".attention.output.LayerNorm.",
            ".ffn.": ".intermediate.dense.",
            ".ffn_output.": ".output.dense.",
            ".full_layer_layer_norm.": ".output.LayerNorm.",
        },
        has_token_types=True,
    ),
}


def distilbert_as_bert(config: Json) -> Json:
    """Add what vLLM's BERT asks of a DistilBERT's *config*; Transformers gives it the rest by BERT's names already."""
    return {
        **config,
        "architectures": ["BertModel"],
        "hidden_act": config.get("activation", "gelu"),
        "intermediate_size": config.get("hidden_dim", 3072),
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 1,
    }


def mpnet_as_bert(config: Json) -> Json:
    """Add what vLLM's BERT asks of an MPNet's *config*; it counts positions from the first that a text has."""
    positions = config.get("max_position_embeddings", 512) - MPNET_POSITION
    return {**config, "architectures": ["BertModel"], "max_position_embeddings": positions, "type_vocab_size": 1}


def albert_as_bert(config: Json, *, dense_size: int | None) -> Json:
    """Name vLLM's BERT in an ALBERT's *config*, and keep the words' width from it: vLLM takes that for the vectors'.

    Their size is that of the layers, or *dense_size* if Dense modules follow.
    """
    sizes = {
        WORD_SIZE: config.get("embedding_size", 128),
        "embedding_size": dense_size or config.get("hidden_size", 4096),
    }
    return {**config, "architectures": ["BertModel"], **sizes}


def weights_as_bert(weights: Iterable[tuple[str, Any]], *, family: str) -> Iterator[tuple[str, Any]]:
    """Rename the weights of a *family*, "distilbert", "mpnet" or "albert".

    To the first two is added the one token type that BERT needs, (1, dim) zeros, which adds nothing. Positions that no
    text has are taken away, and so is the list of positions that old checkpoints hold.
    """
    names = _NAMES[family]
    for name, tensor in weights:
        renamed = name.removeprefix(names.base)
        if not renamed.startswith(names.parts) or renamed.endswith(".position_ids"):
            continue
        for theirs, berts in names.berts.items():
            renamed = renamed.replace(theirs, berts)
        yield renamed, tensor[names.first_position :] if renamed == _POSITIONS else tensor
        if renamed == _WORDS and not names.has_token_types:
            yield _TOKEN_TYPES, tensor.new_zeros((1, tensor.shape[1]))
