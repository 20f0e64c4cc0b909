"""DistilBERT as the BERT that it is: without token types, and with other names for the same layers.

vLLM 0.32 has no class for it. Its general one finds the layer of an attention by `layer_idx`, which Transformers 5 does
not give DistilBERT's, and refuses it. So config.json names vLLM's BERT, and the weights get that class's names while
they are loaded, whichever loader reads them.
Source: transformers/models/distilbert/modeling_distilbert.py, vllm/model_executor/models/bert.py and
vllm/model_executor/models/transformers/base.py, `_create_attention_instances`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

MODEL_TYPE = "distilbert"
_BASE = "distilbert."  # in front of every name where the checkpoint was saved with a head
_PARTS = ("embeddings.", "transformer.")  # the rest is heads of other tasks, which an embedding does not pass
_NAMES = {
    "transformer.layer.": "encoder.layer.",
    ".attention.q_lin.": ".attention.self.query.",
    ".attention.k_lin.": ".attention.self.key.",
    ".attention.v_lin.": ".attention.self.value.",
    ".attention.out_lin.": ".attention.output.dense.",
    ".sa_layer_norm.": ".attention.output.LayerNorm.",
    ".ffn.lin1.": ".intermediate.dense.",
    ".ffn.lin2.": ".output.dense.",
    ".output_layer_norm.": ".output.LayerNorm.",
}
_WORDS, _TOKEN_TYPES = "embeddings.word_embeddings.weight", "embeddings.token_type_embeddings.weight"


def config_as_bert(config: dict[str, Any]) -> dict[str, Any]:
    """Add what vLLM's BERT asks of a DistilBERT's *config*; Transformers gives it the rest by BERT's names already."""
    return {
        **config,
        "architectures": ["BertModel"],
        "hidden_act": config.get("activation", "gelu"),
        "intermediate_size": config.get("hidden_dim", 3072),
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 1,
    }


def weights_as_bert(weights: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Rename a DistilBERT's weights; add the one token type that BERT needs, (1, dim) zeros, which adds nothing."""
    for name, tensor in weights:
        renamed = name.removeprefix(_BASE)
        if not renamed.startswith(_PARTS):
            continue
        for theirs, berts in _NAMES.items():
            renamed = renamed.replace(theirs, berts)
        yield renamed, tensor
        if renamed == _WORDS:
            yield _TOKEN_TYPES, tensor.new_zeros((1, tensor.shape[1]))
