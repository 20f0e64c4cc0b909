from types import SimpleNamespace
from typing import Any

import pytest

from handler.renaming import rename_weights


def loaded(model_type: str, architecture: str, *names: str) -> list[str]:
    """Load weights into what a stand-in for vLLM's module makes, and return the names that came."""
    came: list[str] = []

    class Model:
        config = SimpleNamespace(model_type=model_type, architectures=[architecture])

        def load_weights(self, weights: Any) -> None:
            came.extend(name for name, _ in weights)

    module = SimpleNamespace(initialize_model=lambda **_: Model())
    rename_weights(module)
    module.initialize_model(vllm_config=None).load_weights([(name, None) for name in names])
    return came


@pytest.mark.parametrize(
    ("model_type", "shown_as", "base", "heads"),
    [
        ("bert", "BertModel", "bert.", ["cls.predictions.bias", "cls.seq_relationship.weight"]),
        ("gte", "GteModel", "new.", ["classifier.weight", "lm_head.dense.weight"]),
    ],
)
def test_the_name_in_front_and_the_head_are_left_out(
    model_type: str, shown_as: str, base: str, heads: list[str]
) -> None:
    """Of a checkpoint that was saved with them; one without is the same."""
    weights = ["embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.bias", "pooler.dense.weight"]
    assert loaded(model_type, shown_as, *(base + name for name in weights), *heads) == weights
    assert loaded(model_type, shown_as, *weights) == weights


def test_models_that_are_shown_as_what_they_are_keep_their_names() -> None:
    """A classifier of vLLM's own looks for them."""
    weights = ["bert.encoder.layer.0.output.dense.weight", "classifier.weight"]
    assert loaded("bert", "BertForSequenceClassification", *weights) == weights
    assert loaded("qwen3", "BertModel", *weights) == weights
