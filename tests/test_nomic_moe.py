from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu

from handler.nomic_moe import mix_experts_on_cpus

SIZE, INNER, EXPERTS, TOP = 8, 6, 4, 2


def mixture(*, device: str = "cpu", workers: int = 1) -> Any:
    """Make what there is of vLLM's experts in a layer."""
    generator = torch.Generator().manual_seed(0)
    router = torch.randn(EXPERTS, SIZE, generator=generator)
    experts = SimpleNamespace(
        router=lambda states: (states @ router.T, None),
        w1=torch.randn(EXPERTS, INNER, SIZE, generator=generator).to(device),
        w2=torch.randn(EXPERTS, SIZE, INNER, generator=generator).to(device),
        bias=torch.randn(SIZE, generator=generator),
        top_k=TOP,
        num_total_experts=EXPERTS,
        tp_size=workers,
        forward="vLLM's",
    )
    plain = SimpleNamespace(forward="vLLM's")
    layers = [SimpleNamespace(mlp=plain), SimpleNamespace(mlp=experts)]
    return SimpleNamespace(encoder=SimpleNamespace(layers=layers), config=SimpleNamespace(hidden_act="gelu"))


def test_the_experts_that_the_router_likes_best_are_mixed() -> None:
    """As each expert on each token would give it, by the router's weights as they are; the bias comes once."""
    model = mixture()
    mix_experts_on_cpus(model)
    plain, experts = (layer.mlp for layer in model.encoder.layers)
    states = torch.randn(20, SIZE, generator=torch.Generator().manual_seed(1))
    likes = experts.router(states)[0].softmax(dim=-1)
    expected = torch.stack(
        [
            experts.bias
            + sum(
                likes[token, expert] * (experts.w2[expert] @ gelu(experts.w1[expert] @ state))
                for expert in likes[token].topk(TOP).indices
            )
            for token, state in enumerate(states)
        ]
    )
    assert torch.allclose(experts.forward(states), expected, atol=1e-5)
    assert plain.forward == "vLLM's"


@pytest.mark.parametrize("other", [mixture(device="meta"), mixture(workers=2)], ids=["a GPU", "two workers"])
def test_elsewhere_the_experts_are_vllms(other: Any) -> None:
    """Its kernel runs on GPUs, and knows what belongs to which worker."""
    mix_experts_on_cpus(other)
    assert other.encoder.layers[1].mlp.forward == "vLLM's"


def test_experts_with_another_activation_are_vllms() -> None:
    """None are known."""
    model = mixture()
    model.config.hidden_act = "silu"
    mix_experts_on_cpus(model)
    assert model.encoder.layers[1].mlp.forward == "vLLM's"
