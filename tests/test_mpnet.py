from types import SimpleNamespace
from typing import Any

import torch
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from handler.mpnet import attend_with_bias, buckets

HEADS, WIDTH = 4, 8


def test_buckets_are_those_of_transformers() -> None:
    """To both sides, where each distance has its own, where several share one, and past the last."""
    places = torch.arange(300)
    theirs = MPNetEncoder.relative_position_bucket(places[None, :] - places[:, None])
    assert torch.equal(buckets(300, torch.device("cpu")), theirs)


def layer(*, rank: int, workers: int) -> Any:
    """Make what there is of one of vLLM's layers in a worker."""
    heads = HEADS // workers
    own = {"total_num_heads": HEADS, "num_heads": heads, "scaling": WIDTH**-0.5}
    attn = SimpleNamespace(impl=SimpleNamespace(forward=None))
    attention = SimpleNamespace(attn=attn, qkv_proj=SimpleNamespace(tp_rank=rank), **own)
    return SimpleNamespace(attention=SimpleNamespace(self=attention))


def attended(starts: list[int], states: torch.Tensor, bias: torch.Tensor, *, rank: int = 0, workers: int = 1) -> Any:
    """Attend to texts that begin at *starts* in *states*, (3, tokens, heads, width), by the second of two layers."""
    encoder = SimpleNamespace(layer=[layer(rank=rank, workers=workers) for _ in range(2)])
    attend_with_bias(SimpleNamespace(model=SimpleNamespace(encoder=encoder)))
    encoder.relative_attention_bias.weight.data = bias
    forward = encoder.layer[1].attention.self.attn.impl.forward
    output = torch.zeros(states.shape[1:])
    assert forward(None, *states, None, None, output) is output
    assert not output.any()  # without metadata vLLM only warms up
    metadata = SimpleNamespace(query_start_loc=torch.tensor(starts))
    with torch.inference_mode():
        forward(None, *states, None, metadata, output, output_scale=None)
    return output


def expected(states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Compute one text as the formula says."""
    query, key, value = states
    scores = torch.einsum("qhw,khw->hqk", query, key) / WIDTH**0.5
    scores += bias[buckets(len(query), torch.device("cpu"))].permute(2, 0, 1)
    return torch.einsum("hqk,khw->qhw", scores.softmax(dim=-1), value)


def test_each_text_attends_to_itself_with_its_own_distances() -> None:
    """Several of one length, of others, one token alone, and none at all, which pads a batch."""
    generator = torch.Generator().manual_seed(0)
    lengths = [5, 1, 40, 5, 200, 0, 40, 0]
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    states = torch.randn(3, sum(lengths), HEADS, WIDTH, generator=generator)
    bias = torch.randn(32, HEADS, generator=generator)
    whole = attended(starts, states, bias)
    for start, length in zip(starts, lengths, strict=False):
        here = slice(start, start + length)
        assert torch.allclose(whole[here], expected(states[:, here], bias), atol=1e-5)


def test_each_worker_takes_the_bias_of_its_own_heads() -> None:
    """With tensor parallelism it has every other part of them."""
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(3, 30, HEADS, WIDTH, generator=generator)
    bias = torch.randn(32, HEADS, generator=generator)
    halves = [attended([0, 30], states[:, :, 2 * rank :][:, :, :2], bias, rank=rank, workers=2) for rank in range(2)]
    assert torch.allclose(torch.cat(halves, dim=1), attended([0, 30], states, bias), atol=1e-5)
