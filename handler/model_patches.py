"""What vLLM must see of a model folder's files instead of what stands there."""

from __future__ import annotations

from typing import Any

from handler.distilbert import MODEL_TYPE, config_as_bert
from handler.errors import StartError

Json = dict[str, Any]
Patches = dict[str, Json]  # file -> its content

_ROBERTAS = {"roberta", "xlm-roberta", "camembert"}  # their positions begin behind the padding id
# Of the same models, what vLLM has no class for. Its general one would give them positions from 0.
_KNOWN_AS = {
    "CamembertModel": "RobertaModel",
    "CamembertForMaskedLM": "RobertaForMaskedLM",
    "XLMRobertaForMaskedLM": "RobertaForMaskedLM",
}
# Models of which no class of vLLM's knows where their positions begin.
_STRANGERS = {"data2vec-text", "esm", "ibert", "longformer", "luke", "roberta-prelayernorm"}
_STRANGERS |= {"xlm-roberta-xl", "xmod"}
# What vLLM 0.32 lacks for families that many models are made of, and which of other families do the same.
_LACKING = {
    "albert": (
        "no class for ALBERT, whose layers share their weights",
        "paraphrase-MiniLM-L3-v2 for paraphrase-albert-small-v2",
    ),
    "mpnet": (
        "no attention with the relative position bias that MPNet adds to its scores",
        "all-distilroberta-v1 for all-mpnet-base-v2, multi-qa-distilbert-cos-v1 for multi-qa-mpnet-base",
    ),
}


def config_patch(config: Json) -> Patches:
    """Name RoBERTa's class, and its kind of positions, which vLLM needs and Transformers 5 does not write any more.

    DistilBERT gets what BERT's class needs.

    Raises:
        StartError: a model that vLLM lacks something for, or whose positions it would count from 0, though they begin
            behind the padding id.
    """
    kind = config.get("model_type")
    if kind == MODEL_TYPE:
        return {"config.json": config_as_bert(config)}
    if kind in _LACKING:
        lacks, others = _LACKING[kind]
        message = f"vLLM has {lacks}; not served, take a model of another family: {others}"
        raise StartError(message)
    if kind in _STRANGERS:
        message = f"vLLM counts the positions of {kind} models from 0, but they begin behind the padding id; not served"
        raise StartError(message)
    if kind not in _ROBERTAS:
        return {}
    classes = [_KNOWN_AS.get(name, name) for name in config.get("architectures") or []]
    patched = {**config, "position_embedding_type": config.get("position_embedding_type", "absolute")}
    if classes:
        patched["architectures"] = classes
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
    if config.get("model_type") in _ROBERTAS and positions is not None:
        positions -= (config.get("pad_token_id") or 0) + 1
        wanted = wanted or positions
    if wanted is not None and positions is not None:
        wanted = min(wanted, positions)
    patched = {key: value for key, value in encoder.items() if key != "max_seq_length"}
    if wanted is not None:
        patched["max_seq_length"] = wanted
    return {file: patched} if patched != encoder else {}
