"""Families of models, and choices in their config.json, that are not computed: refused by name before vLLM starts.

Most of them it would load and compute otherwise; of the rest it says something that nobody who serves a model knows.
Source: vllm/model_executor/models of vLLM 0.32, and vectors of tiny models against sentence-transformers' own.
"""

from __future__ import annotations

from typing import Any

from handler.albert import ALBERT
from handler.errors import StartError
from handler.jina import JINA, is_jina, jina_problem
from handler.mpnet import MPNET
from handler.nomic_moe import NOMIC
from handler.rotary import is_voyage
from handler.t5 import T5S, t5_problem

Json = dict[str, Any]

ROBERTAS = {"roberta", "xlm-roberta", "camembert"}  # their positions begin behind the padding id
ENCODERS = {"bert", ALBERT, *ROBERTAS}  # which one class of vLLM's computes
VOYAGE = "voyage"
OWN_ATTENTION = {MPNET, JINA, *T5S}  # of this server, which looks at the lengths of texts
# Models of which no class of vLLM's knows where their positions begin.
_STRANGERS = {"data2vec-text", "esm", "ibert", "longformer", "luke", "roberta-prelayernorm"}
_STRANGERS |= {"xlm-roberta-xl", "xmod"}
_DEBERTA = ("no attention with DeBERTa's relative positions", "gte-modernbert-base, or multilingual-e5-base")
_ADAPTERS = "no choice among the adapters of jina-embeddings-v3: it takes that for text-matching, whatever the task"
# What vLLM 0.32 lacks for families that many models are made of, by type or class, and which others do the same.
_LACKING = {
    "umt5": ("no encoder with a bias of its own in each layer", "multilingual-e5-base"),
    **dict.fromkeys(("deberta", "deberta-v2"), _DEBERTA),
    "jina_embeddings_v3": (
        "no class for jina-embeddings-v3",
        "multilingual-e5-large, or snowflake-arctic-embed-l-v2.0",
    ),
    "JinaEmbeddingsV5Model": (
        "no choice among the adapters of jina-embeddings-v5, and takes none where they are not at hand",
        "jina-embeddings-v5-text-small-retrieval, or the one with another task in its name",
    ),
}
_ROTARY = (_ADAPTERS, "multilingual-e5-large, or snowflake-arctic-embed-l-v2.0")  # what such an encoder is
# What Nomic's own code does otherwise where this is set, and vLLM does not.
_NOMIC_CHOICES = (
    *("rotary_scaling_factor", "prenorm", "parallel_block", "use_rms_norm", "causal"),
    *("moe_normalize_expert_weights", "expert_choice_router", "num_shared_experts"),
)
# What else of a family is not computed.
_PROBLEMS = {JINA: jina_problem, **dict.fromkeys(T5S, t5_problem)}


def family_of(config: Json) -> str:
    """Return a model's type, or a name for one that config.json takes for another's."""
    if is_jina(config):
        return JINA
    return VOYAGE if is_voyage(config) else str(config.get("model_type"))


def check_family(config: Json) -> None:
    """Refuse what *config*, a model's config.json, says of it where vLLM would compute something else or fail.

    Raises:
        StartError: with what vLLM lacks, and what to do.
    """
    kind = family_of(config)
    positions = config.get("position_embedding_type") or "absolute"
    lacks = next((_LACKING[name] for name in (kind, *(config.get("architectures") or ())) if name in _LACKING), None)
    if kind in ENCODERS and positions == "rotary":
        lacks = _ROTARY
    elif kind in ENCODERS and positions != "absolute":
        lacks = (f"no {kind} with {positions} positions", "one with absolute positions")
    if lacks is not None:
        message = f"vLLM has {lacks[0]}; not served, take another model: {lacks[1]}"
        raise StartError(message)
    if kind in _STRANGERS:
        message = f"vLLM counts the positions of {kind} models from 0, but they begin behind the padding id; not served"
        raise StartError(message)
    if problem := _problem(kind, config):
        message = f"config.json: {problem}; not served"
        raise StartError(message)


def _problem(kind: str, config: Json) -> str | None:
    """Say which choice in *config* vLLM passes over in silence, None where there is none."""
    if kind in ENCODERS and config.get("is_decoder"):
        return f"is_decoder, but vLLM's {kind} looks to both sides"
    if kind in _PROBLEMS:
        return _PROBLEMS[kind](config)
    padding = config.get("pad_token_id")
    if kind in ROBERTAS and padding is not None and padding in (config.get("bos_token_id"), config.get("eos_token_id")):
        return "pad_token_id is also the beginning's or the end's id, by which positions are counted in another way"
    if kind == ALBERT and (config.get("num_hidden_groups", 1), config.get("inner_group_num", 1)) != (1, 1):
        return "num_hidden_groups and inner_group_num, of which only 1 is computed here: one layer for all"
    chosen = [name for name in _NOMIC_CHOICES if kind == NOMIC and config.get(name)]
    return f"{chosen[0]}={config[chosen[0]]}, which vLLM does not compute" if chosen else None
