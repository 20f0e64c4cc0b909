from types import SimpleNamespace
from typing import Any

import pytest
import torch

from handler.biased_attention import buckets
from handler.mpnet import attend_as_mpnet

HEADS, WIDTH, TOKENS = 4, 8, 30


def attended(states: torch.Tensor, learned: torch.Tensor, *, rank: int = 0, workers: int = 1) -> Any:
    """Attend to one text, *states* (3, tokens, heads, width), by the second of two layers of vLLM's BERT."""
    heads = HEADS // workers
    own = {"total_num_heads": HEADS, "num_heads": heads, "scaling": WIDTH**-0.5}
    attentions = [
        SimpleNamespace(attn=SimpleNamespace(impl=SimpleNamespace()), qkv_proj=SimpleNamespace(tp_rank=rank), **own)
        for _ in range(2)
    ]
    encoder = SimpleNamespace(layer=[SimpleNamespace(attention=SimpleNamespace(self=one)) for one in attentions])
    attend_as_mpnet(SimpleNamespace(model=SimpleNamespace(encoder=encoder)))
    encoder.relative_attention_bias.weight.data = learned
    output = torch.zeros(states.shape[1:])
    metadata = SimpleNamespace(query_start_loc=torch.tensor([0, TOKENS]))
    with torch.inference_mode():
        attentions[1].attn.impl.forward(None, *states, None, metadata, output)
    return output


@pytest.mark.parametrize("workers", [1, 2])
def test_the_learned_bias_of_the_distance_is_added(workers: int) -> None:
    """Each worker takes that of its own heads, in the order of all."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(3, TOKENS, HEADS, WIDTH, generator=generator)
    learned = torch.randn(32, HEADS, generator=generator)
    query, key, value = states
    scores = torch.einsum("qhw,khw->hqk", query, key) / WIDTH**0.5
    scores += learned[buckets(range(TOKENS), TOKENS, torch.device("cpu"))].permute(2, 0, 1)
    expected = torch.einsum("hqk,khw->qhw", scores.softmax(dim=-1), value)
    heads = HEADS // workers
    parts = [
        attended(states[:, :, heads * rank :][:, :, :heads], learned, rank=rank, workers=workers)
        for rank in range(workers)
    ]
    assert torch.allclose(torch.cat(parts, dim=1), expected, atol=1e-5)
