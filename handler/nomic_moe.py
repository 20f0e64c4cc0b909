"""The mixture of experts of nomic-embed-text-v2-moe on CPUs, where vLLM 0.32 cannot compute it.

Its kernel for that is written in Triton. What is around the experts, and their weights, stay vLLM's; GPUs keep its
kernel.
Source: `NomicMoE` in vllm/model_executor/models/bert_with_rope.py, which it must equal.
"""

from __future__ import annotations

from typing import Any

NOMIC = "nomic_bert"


def mix_experts_on_cpus(model: Any) -> None:
    """Have the experts of vLLM's Nomic BERT *model* computed by PyTorch, where it is on a CPU and not shared."""
    mixtures = [layer.mlp for layer in model.encoder.layers if hasattr(layer.mlp, "router")]
    for experts in mixtures if model.config.hidden_act == "gelu" else ():
        if experts.w1.device.type == "cpu" and experts.tp_size == 1:
            experts.forward = _Mixture(experts).forward


class _Mixture:
    """What a layer of experts computes."""

    def __init__(self, experts: Any) -> None:
        self._experts = experts

    def forward(self, states: Any) -> Any:
        """Return (tokens, size) for *states*, (tokens, size): of each token the experts that its router likes best."""
        import torch  # noqa: PLC0415 - importing it takes seconds
        from torch.nn.functional import gelu  # noqa: PLC0415

        own = self._experts
        likes, _ = own.router(states)
        weights, chosen = likes.softmax(dim=-1, dtype=torch.float32).topk(own.top_k)  # not made to sum up to 1 again
        mixed = torch.zeros_like(states)
        for index in range(own.num_total_experts):
            tokens, rank = torch.where(chosen == index)
            inner = gelu(states[tokens] @ own.w1[index].T)
            part = inner @ own.w2[index].T * weights[tokens, rank, None].to(states.dtype)
            mixed.index_add_(0, tokens, part)
        return mixed + own.bias
