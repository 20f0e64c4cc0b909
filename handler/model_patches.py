"""What vLLM must see of a model folder's files instead of what stands there."""

from __future__ import annotations

from typing import Any

from handler.albert import ALBERT
from handler.as_bert import DISTILBERT, MPNET_POSITION, albert_as_bert, distilbert_as_bert, mpnet_as_bert
from handler.errors import StartError
from handler.families import ENCODERS, ROBERTAS, VOYAGE, check_family, family_of
from handler.jina import JINA, jina_as_gte
from handler.mpnet import MPNET
from handler.nomic_moe import NOMIC
from handler.rotary import LLAMA_BOTH_SIDES, config_as_gte, config_as_llama, config_as_nomic, config_as_voyage
from handler.t5 import T5S, t5_as_llama

Json = dict[str, Any]
Patches = dict[str, Json]  # file -> its content

# Of the same models, what vLLM has no class for. Its general one would give them positions from 0.
_KNOWN_AS = {
    "CamembertModel": "RobertaModel",
    "CamembertForMaskedLM": "RobertaForMaskedLM",
    "XLMRobertaForMaskedLM": "RobertaForMaskedLM",
}
# Of language models that were trained further to embed and kept their class, for which vLLM has none or another pooler.
_TRAINED_FURTHER = {
    "BertForMaskedLM": "BertModel",
    "BertForPreTraining": "BertModel",
    "ModernBertForMaskedLM": "ModernBertModel",
}
_AS_OTHERS = {
    DISTILBERT: distilbert_as_bert,
    MPNET: mpnet_as_bert,
    "gte": config_as_gte,
    "new": config_as_gte,
    NOMIC: config_as_nomic,
    LLAMA_BOTH_SIDES: config_as_llama,
    VOYAGE: config_as_voyage,
    JINA: jina_as_gte,
    **dict.fromkeys(T5S, t5_as_llama),
}


def config_patch(config: Json, *, has_modules: bool, dense_size: int | None = None) -> Patches:
    """Name classes that vLLM has, and RoBERTa's kind of positions, which it needs and Transformers 5 does not write.

    Other families get what the classes that compute them need. Only a model that *has_modules* of sentence-transformers
    is an embedding model whatever its class: others may be for sparse vectors. *dense_size* is what its last Dense
    module makes of the vectors, None where there is none.

    Raises:
        StartError: a model that vLLM lacks something for, or would compute otherwise.
    """
    check_family(config)
    family = family_of(config)
    patched = {**config}
    if family == ALBERT:
        patched = albert_as_bert(config, dense_size=dense_size)
    elif family in _AS_OTHERS:
        shown = _AS_OTHERS[family](config)
        if shown is not config:  # then it needs no Python of its own
            patched = {name: value for name, value in shown.items() if name != "auto_map"}
    elif classes := config.get("architectures"):
        known = _KNOWN_AS | (_TRAINED_FURTHER if has_modules else {})
        patched["architectures"] = [known.get(name, name) for name in classes]
    if family in ROBERTAS or (family in ENCODERS and "position_embedding_type" in config):  # where it may be null
        patched["position_embedding_type"] = config.get("position_embedding_type") or "absolute"
    return {"config.json": patched} if patched != config else {}


def length_patch(config: Json, file: str, encoder: Json, tokenizer: Json | None) -> Patches:
    """Keep vLLM from taking more tokens than sentence-transformers does, or than there are positions.

    It believes `max_seq_length` unchecked, cannot read a null there, and counts RoBERTa's padding positions as usable.
    Past the last position it reads other memory or fails.

    Args:
        config: of the model.
        file: in which `max_seq_length` stands or would stand, of which *encoder* is the content.
        encoder: empty where there is none.
        tokenizer: tokenizer_config.json, whose limit counts where no other is given; None where the folder has no
            sentence-transformers modules.

    Raises:
        StartError: a length that is none.
    """
    positions = config.get("max_position_embeddings")
    wanted = encoder.get("max_seq_length")
    if wanted is not None and (not isinstance(wanted, int) or wanted < 1):
        message = f"{file}: max_seq_length must be a whole number from 1"
        raise StartError(message)
    limit = (tokenizer or {}).get("model_max_length")
    if wanted is None and limit is not None and positions is not None:
        wanted = int(min(limit, positions))  # what has no limit has 10**30 there
    if positions is not None and (first := _first_position(config)):
        positions -= first
        wanted = wanted or positions
    if wanted is not None and positions is not None:
        wanted = min(wanted, positions)
    patched = {key: value for key, value in encoder.items() if key != "max_seq_length"}
    if wanted is not None:
        patched["max_seq_length"] = wanted
    return {file: patched} if patched != encoder else {}


def _first_position(config: Json) -> int:
    """Which position the first token of a text has."""
    kind = config.get("model_type")
    if kind in ROBERTAS:
        return int(config.get("pad_token_id") or 0) + 1
    return MPNET_POSITION if kind == MPNET else 0
