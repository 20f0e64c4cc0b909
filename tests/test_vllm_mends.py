import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from handler.vllm_mends import (
    MissingWeightsError,
    attends_causally,
    differs,
    inspect_models_here,
    refuse_missing_weights,
)


class UnquantizedLinearMethod:
    """By the name of vLLM's."""


class ParallelLinear(torch.nn.Linear):
    """One of vLLM's own."""


def loader(*layers: str, method: type | None = UnquantizedLinearMethod) -> tuple[Any, torch.nn.Module, list[Any]]:
    """Return a stand-in for vLLM's module, the model that it makes, and what it was asked to process.

    Without a *method* the layers are torch's.
    """
    model, processed = torch.nn.Module(), list[Any]()
    for name in layers:
        layer = torch.nn.Linear(3, 4) if method is None else ParallelLinear(3, 4)
        if method is not None:
            layer.__dict__["quant_method"] = method()
        model.add_module(name, layer)
    module = SimpleNamespace(
        initialize_model=lambda **_: model, process_weights_after_loading=lambda *args: processed.append(args)
    )
    refuse_missing_weights(module)
    return module, module.initialize_model(vllm_config=None), processed


def load(model: torch.nn.Module, name: str, rows: slice = slice(None)) -> None:
    """Fill rows of a layer, as a loader of weights does."""
    for parameter in model.get_submodule(name).parameters():
        parameter.data[rows] = 1


def test_a_class_is_looked_at_in_this_process() -> None:
    """What vLLM would have done by another Python is done here."""
    registry = SimpleNamespace(_run_in_subprocess=lambda _: -1)
    inspect_models_here(registry)
    assert registry._run_in_subprocess(os.getpid) == os.getpid()  # noqa: SLF001 - vLLM's own function


def test_what_is_loaded_whole_is_processed() -> None:
    """With the arguments that vLLM gives."""
    module, model, processed = loader("a", "b")
    load(model, "a")
    load(model, "b")
    module.process_weights_after_loading(model, "config", "cpu")
    assert processed == [(model, "config", "cpu")]


def test_a_part_that_is_missing_is_named() -> None:
    """Rows of a matrix, where vLLM stacks several."""
    module, model, processed = loader("a", "b")
    load(model, "a")
    load(model, "b", slice(0, 2))
    with pytest.raises(MissingWeightsError, match=r"for b\.weight, b\.bias$"):
        module.process_weights_after_loading(model, "config", "cpu")
    assert not processed


def test_many_are_counted() -> None:
    """A checkpoint of another model lacks hundreds."""
    module, model, _ = loader("a", "b", "c")
    with pytest.raises(MissingWeightsError, match=r"for a\.weight, a\.bias, b\.weight and 3 more$"):
        module.process_weights_after_loading(model, "config", "cpu")


def test_torchs_own_layers_are_looked_at_too() -> None:
    """vLLM's loader that streams does not ask whether they came."""
    module, model, _ = loader("a", "b", method=None)
    load(model, "a")
    with pytest.raises(MissingWeightsError, match=r"for b\.weight, b\.bias$"):
        module.process_weights_after_loading(model, "config", "cpu")


def test_quantized_layers_are_left_alone() -> None:
    """Their scales have defaults."""

    class Fp8LinearMethod:
        pass

    module, model, processed = loader("a", method=Fp8LinearMethod)
    assert not any(parameter.isnan().any() for parameter in model.parameters())
    module.process_weights_after_loading(model, "config", "cpu")
    assert processed


def test_an_unused_pooler_may_be_missing() -> None:
    """Transformers makes one, and vLLM uses its own."""
    module, model, processed = loader("pooler")
    module.process_weights_after_loading(model, "config", "cpu")
    assert processed


def vllm_config(said: dict[str, Any], pooling: str = "LAST") -> Any:
    """Stand in for vLLM's configuration of a model of which config.json has *said* something; it takes 256 tokens."""
    return SimpleNamespace(
        max_model_len=256,
        hf_text_config=SimpleNamespace(**said),
        pooler_config=SimpleNamespace(seq_pooling_type=pooling),
    )


@pytest.mark.parametrize("said", [{"is_causal": False}, {"use_bidirectional_attention": True}])
def test_attention_to_both_sides_that_a_class_does_not_have_is_told(said: dict[str, bool]) -> None:
    """vLLM's Gemma 2 and others never look at the key."""
    assert "looks back only" in str(differs(vllm_config(said), "LAST", causal=True))
    assert differs(vllm_config(said), "LAST", causal=False) is None


@pytest.mark.parametrize("said", [{}, {"is_causal": True}, {"use_bidirectional_attention": False}])
def test_attention_that_looks_back_is_what_most_decoders_have(said: dict[str, bool]) -> None:
    """And what a config.json that says nothing means."""
    assert differs(vllm_config(said), "LAST", causal=True) is None


def test_another_pooling_than_that_of_the_modules_is_told() -> None:
    """One of vLLM's classes takes it from config.json; without modules it is vLLM's to choose."""
    told = differs(vllm_config({}, "MEAN"), "LAST", causal=False)
    assert told == "takes MEAN pooling, though modules.json asks for LAST"
    assert differs(vllm_config({}, "MEAN"), None, causal=False) is None


@pytest.mark.parametrize(
    "said",
    [
        {"rope_parameters": {"rope_type": "longrope"}, "original_max_position_embeddings": 64},
        {"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 64}},
    ],
)
def test_positions_that_are_scaled_by_the_length_of_a_text_are_told(said: dict[str, Any]) -> None:
    """vLLM has one scale for all texts, that of the longest."""
    assert str(differs(vllm_config(said), "LAST", causal=True)).endswith("unless EMBED_MAX_MODEL_LEN=64")
    config = vllm_config(said)
    config.max_model_len = 64
    assert differs(config, "LAST", causal=True) is None
    yarn = {"rope_parameters": {"rope_type": "yarn", "original_max_position_embeddings": 64}}
    assert differs(vllm_config(yarn), "LAST", causal=True) is None


def test_layers_tell_where_they_look() -> None:
    """The class of a model has the same attribute, for all models the same."""
    model = torch.nn.Module()
    model.__dict__["attn_type"] = "decoder"
    layer = torch.nn.Module()
    layer.__dict__ |= {"attn_type": "encoder_only", "impl": object()}
    model.add_module("layer", layer)
    assert not attends_causally(model)
    layer.__dict__["attn_type"] = "decoder"
    assert attends_causally(model)
