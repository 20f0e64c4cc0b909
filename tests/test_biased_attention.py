from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder
from transformers.models.t5.modeling_t5 import T5Attention

from handler import biased_attention
from handler.biased_attention import Bias, attend_with_bias, buckets, own_heads, without_rotation

HEADS, WIDTH = 4, 8
LENGTHS = [5, 1, 40, 5, 200, 0, 40, 0]


def of_places(rows: range, tokens: int, _device: Any) -> torch.Tensor:
    """Make a bias that differs for each head and each pair of places, in both directions."""
    across = torch.arange(tokens) - 3 * torch.arange(rows.start, rows.stop)[:, None]
    return torch.sin(across * torch.arange(1, HEADS + 1)[:, None, None])


def layers_with(bias: Bias, *, count: int = 1, scaling: float = 1.0) -> list[Any]:
    """Make what there is of so many of vLLM's layers, and have them add *bias*."""
    layers = [
        SimpleNamespace(attn=SimpleNamespace(impl=SimpleNamespace()), num_heads=HEADS, scaling=scaling)
        for _ in range(count)
    ]
    attend_with_bias(layers, bias)
    return layers


def attended(states: torch.Tensor, starts: list[int], *, times: int = 1) -> Any:
    """Attend to texts that begin at *starts* in *states*, (3, tokens, heads, width), by the second of two layers."""
    _, second = layers_with(of_places, count=2, scaling=WIDTH**-0.5)
    forward = second.attn.impl.forward
    output = torch.zeros(states.shape[1:])
    assert forward(None, *states, None, None, output) is output
    assert not output.any()  # without metadata vLLM only warms up
    for _ in range(times):
        metadata = SimpleNamespace(query_start_loc=torch.tensor(starts))
        with torch.inference_mode():
            forward(None, *states, None, metadata, output, output_scale=None)
        forward(None, *states, None, None, output)  # a warm-up between batches changes nothing
    return output


def expected(states: torch.Tensor) -> torch.Tensor:
    """Compute one text as the formula says."""
    query, key, value = states
    tokens = len(query)
    scores = torch.einsum("qhw,khw->hqk", query, key) / WIDTH**0.5 + of_places(range(tokens), tokens, None)
    return torch.einsum("hqk,khw->qhw", scores.softmax(dim=-1), value)


@pytest.mark.parametrize("most_scores", [2**24, HEADS * 200 * 30, HEADS, 1])
def test_each_text_attends_to_itself_with_its_own_bias(most_scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several of one length, of others, one token alone, and none at all, which pads a batch; long ones in parts."""
    monkeypatch.setattr(biased_attention, "_MOST_SCORES", most_scores)
    starts = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]
    states = torch.randn(3, sum(LENGTHS), HEADS, WIDTH, generator=torch.Generator().manual_seed(0))
    whole = attended(states, starts, times=2)
    for start, length in zip(starts, LENGTHS, strict=False):
        here = slice(start, start + length)
        assert torch.allclose(whole[here], expected(states[:, here]), atol=1e-5)


def test_the_bias_of_short_texts_is_made_once() -> None:
    """For all batches and layers, until a longer one comes; of what is too long for that, only rows are held."""
    asked: list[tuple[int, int]] = []

    def noted(rows: range, tokens: int, device: Any) -> torch.Tensor:
        asked.append((len(rows), tokens))
        return of_places(rows, tokens, device)

    (layer,) = layers_with(noted)
    for tokens in (40, 40, 20, 41, 2200):
        states = torch.randn(3, tokens, HEADS, WIDTH)
        metadata = SimpleNamespace(query_start_loc=torch.tensor([0, tokens]))
        layer.attn.impl.forward(None, *states, None, metadata, torch.zeros(states.shape[1:]))
    assert asked == [(40, 40), (41, 41), (1906, 2200), (294, 2200)]


def test_where_texts_lie_is_found_out_once_for_all_layers() -> None:
    """They share the description of a batch."""

    class Places(list[int]):
        read = 0

        def tolist(self) -> list[int]:
            self.read += 1
            return list(self)

    states, places = torch.randn(3, 9, HEADS, WIDTH), Places([0, 9])
    metadata = SimpleNamespace(query_start_loc=places)
    for layer in layers_with(of_places, count=3):
        layer.attn.impl.forward(None, *states, None, metadata, torch.zeros(9, HEADS, WIDTH))
    assert places.read == 1


def test_a_bias_is_kept_as_the_states_are() -> None:
    """In half precision it takes half of the memory; torch mixes no kinds of numbers."""
    (layer,) = layers_with(of_places)
    states = torch.randn(3, 9, HEADS, WIDTH).bfloat16()
    output = torch.zeros(9, HEADS, WIDTH).bfloat16()
    metadata = SimpleNamespace(query_start_loc=torch.tensor([0, 9]))
    layer.attn.impl.forward(None, *states, None, metadata, output)
    assert output.isfinite().all()
    assert output.any()


@pytest.mark.parametrize(("rank", "heads"), [(0, slice(0, 2)), (1, slice(2, 4))])
def test_each_worker_has_heads_of_its_own(rank: int, heads: slice) -> None:
    """With tensor parallelism every other part of them."""
    assert own_heads(SimpleNamespace(qkv_proj=SimpleNamespace(tp_rank=rank), num_heads=2)) == heads


def test_buckets_are_those_of_transformers() -> None:
    """To both sides, where each distance has its own, where several share one, and past the last; also of some rows."""
    places = torch.arange(300)
    theirs = MPNetEncoder.relative_position_bucket(places[None, :] - places[:, None])
    assert torch.equal(theirs, T5Attention._relative_position_bucket(places[None, :] - places[:, None]))  # noqa: SLF001
    assert torch.equal(buckets(range(300), 300, torch.device("cpu")), theirs)
    assert torch.equal(buckets(range(150, 170), 300, torch.device("cpu")), theirs[150:170])


def test_without_rotation_queries_and_keys_stay() -> None:
    """What was a module is a function then, which torch lets nobody do in one step."""
    layer: Any = torch.nn.Module()
    layer.rotary_emb = torch.nn.Identity()
    without_rotation(layer)
    assert layer.rotary_emb(None, "query", "key") == ("query", "key")
    assert not list(layer.children())
