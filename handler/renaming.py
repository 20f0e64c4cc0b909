"""Weights under the names that vLLM's classes know, whichever loader reads them, and what these classes lack.

A checkpoint of a language model has the model's name in front of every weight, and a head, which an embedding does not
pass. Transformers takes off the one and leaves out the other; vLLM's BERT and GTE do neither. Families of which it has
no class have other names, and parts of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from handler.albert import ALBERT, share_weights
from handler.as_bert import DISTILBERT, weights_as_bert
from handler.biased_attention import COMPUTED_AS
from handler.jina import JINA, JINA_CODE, attend_by_distance, weights_as_gte
from handler.mpnet import MPNET, attend_as_mpnet
from handler.nomic_moe import NOMIC, mix_experts_on_cpus
from handler.t5 import T5, compute_t5, weights_as_llama

Weights = Iterable[tuple[str, Any]]


def without_head(weights: Weights, *, base: str, heads: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Take *base* off the names, and leave out what begins with one of *heads*."""
    return ((name.removeprefix(base), tensor) for name, tensor in weights if not name.startswith(heads))


@dataclass(frozen=True, slots=True)
class _Shown:
    """What is done to a model that config.json shows as another."""

    as_class: str
    rename: Callable[[Weights], Weights] = iter
    change: Callable[[Any], None] = lambda _model: None  # once vLLM has made the class, before its weights come


# model type, or what the config says that it is computed as.
_SHOWN = {
    DISTILBERT: _Shown("BertModel", partial(weights_as_bert, family=DISTILBERT)),
    MPNET: _Shown("BertModel", partial(weights_as_bert, family=MPNET), attend_as_mpnet),
    ALBERT: _Shown("BertModel", partial(weights_as_bert, family=ALBERT), share_weights),
    JINA: _Shown("GteModel", partial(weights_as_gte, kind=JINA), attend_by_distance),
    JINA_CODE: _Shown("GteModel", partial(weights_as_gte, kind=JINA_CODE), attend_by_distance),
    T5: _Shown("LlamaBidirectionalModel", weights_as_llama, compute_t5),
    NOMIC: _Shown("NomicBertModel", change=mix_experts_on_cpus),
    "bert": _Shown("BertModel", partial(without_head, base="bert.", heads=("cls.",))),
    "gte": _Shown("GteModel", partial(without_head, base="new.", heads=("classifier.", "lm_head."))),
}


def rename_weights(base_loader: Any) -> None:
    """Have the models that vLLM's module *base_loader* makes take the weights of those that are shown as others.

    Some are changed first, and take weights that vLLM's class has not.
    """
    initialize = base_loader.initialize_model

    def initialize_model(*args: Any, **options: Any) -> Any:
        model = initialize(*args, **options)
        config = getattr(model, "config", None)
        kind = str(getattr(config, COMPUTED_AS, None) or getattr(config, "model_type", None))
        shown = _SHOWN.get(kind)
        if shown is not None and shown.as_class in (getattr(config, "architectures", None) or ()):
            shown.change(model)
            load = model.load_weights
            model.load_weights = lambda weights: load(shown.rename(weights))
        return model

    base_loader.initialize_model = initialize_model
