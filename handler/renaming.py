"""Weights under the names that vLLM's classes know, whichever loader reads them, and what these classes lack.

A checkpoint of a language model has the model's name in front of every weight, and a head, which an embedding does not
pass. Transformers takes off the one and leaves out the other; vLLM's BERT and GTE do neither. Families of which it has
no class have other names, and parts of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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


# model type, or what the config says that it is computed as -> the class that config.json names for it, and what its
# weights go through.
_RENAMED: dict[str, tuple[str, Callable[[Weights], Weights]]] = {
    DISTILBERT: ("BertModel", partial(weights_as_bert, family=DISTILBERT)),
    MPNET: ("BertModel", partial(weights_as_bert, family=MPNET)),
    ALBERT: ("BertModel", partial(weights_as_bert, family=ALBERT)),
    JINA: ("GteModel", partial(weights_as_gte, kind=JINA)),
    JINA_CODE: ("GteModel", partial(weights_as_gte, kind=JINA_CODE)),
    T5: ("LlamaBidirectionalModel", weights_as_llama),
    NOMIC: ("NomicBertModel", iter),
    "bert": ("BertModel", partial(without_head, base="bert.", heads=("cls.",))),
    "gte": ("GteModel", partial(without_head, base="new.", heads=("classifier.", "lm_head."))),
}
# The same -> what is done to that class once it is made, before its weights come.
_CHANGED: dict[str, Callable[[Any], None]] = {
    MPNET: attend_as_mpnet,
    ALBERT: share_weights,
    JINA: attend_by_distance,
    JINA_CODE: attend_by_distance,
    T5: compute_t5,
    NOMIC: mix_experts_on_cpus,
}


def rename_weights(base_loader: Any) -> None:
    """Have the models that vLLM's module *base_loader* makes take the weights of those that are shown as others.

    Some are changed first, and get weights that vLLM's class has not.
    """
    initialize = base_loader.initialize_model

    def initialize_model(*args: Any, **options: Any) -> Any:
        model = initialize(*args, **options)
        config = getattr(model, "config", None)
        kind = str(getattr(config, COMPUTED_AS, None) or getattr(config, "model_type", None))
        shown_as, rename = _RENAMED.get(kind, (None, None))
        if rename is not None and shown_as in (getattr(config, "architectures", None) or ()):
            if kind in _CHANGED:
                _CHANGED[kind](model)
            load = model.load_weights
            model.load_weights = lambda weights: load(rename(weights))
        return model

    base_loader.initialize_model = initialize_model
