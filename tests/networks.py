"""Models in plain PyTorch that no library has: what their authors' code computes, for one text.

Their weights are called as in the published checkpoints. jina-embeddings-v2's model for code norms queries and keys,
too, and the states once more behind the attention; of its two halves of the widening layer the other one goes through
the activation.
"""

from typing import Any

import torch
import transformers as hf
from torch import nn
from torch.nn.functional import gelu
from transformers.modeling_outputs import BaseModelOutput

# By the number of heads, which are 8 or 12 in the published models.
SLOPES = {2: [2**-4, 2**-8], 6: [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]}


def own_network(config: Any) -> nn.Module | None:
    """Make the network of a *config*, by the Python that it names; None where Transformers has one."""
    code = str((getattr(config, "auto_map", None) or {}).get("AutoModel"))
    if code.endswith("JinaBertModel"):
        return JinaBert(config, code="qk-post-norm" in code)
    if code.endswith("NomicBertModel") and getattr(config, "num_experts", None):
        return NomicMoe(config)
    return Voyage(config) if code.endswith("Qwen3BidirectionalModel") else None


class NomicMoe(nn.Module):
    """nomic-embed-text-v2-moe: BERT's layers with rotary positions, every other one with experts."""

    def __init__(self, config: Any) -> None:
        """Make as many layers as *config* has."""
        super().__init__()
        self.config = config
        size, inner, experts = config.n_embd, config.n_inner, config.num_experts
        words = {"word_embeddings": config.vocab_size, "token_type_embeddings": config.type_vocab_size}
        self.embeddings: Any = nn.ModuleDict({name: nn.Embedding(count, size) for name, count in words.items()})
        self.emb_ln = nn.LayerNorm(size, eps=config.layer_norm_epsilon)

        def layer(*, mixed: bool) -> nn.Module:
            attn = nn.ModuleDict({"Wqkv": nn.Linear(size, 3 * size), "out_proj": nn.Linear(size, size)})
            mlp: nn.Module = nn.ModuleDict({"fc1": nn.Linear(size, inner), "fc2": nn.Linear(inner, size)})
            if mixed:
                matrices = nn.ParameterDict({name: torch.empty(experts * inner, size) for name in ("w1", "w2")})
                mixture = nn.ModuleDict({"mlp": matrices})
                mixture.bias = nn.Parameter(torch.empty(size))
                router = nn.ModuleDict({"layer": nn.Linear(size, experts, bias=False)})
                mlp = nn.ModuleDict({"router": router, "experts": mixture})
            norms = {name: nn.LayerNorm(size, eps=config.layer_norm_epsilon) for name in ("norm1", "norm2")}
            return nn.ModuleDict({"attn": attn, "mlp": mlp, **norms})

        layers = [layer(mixed=index % config.moe_every_n_layers == 1) for index in range(config.n_layer)]
        self.encoder: Any = nn.ModuleDict({"layers": nn.ModuleList(layers)})

    def forward(self, input_ids: torch.Tensor, **_: Any) -> BaseModelOutput:
        """Return the states of one text, (1, tokens, size)."""
        (ids,) = input_ids
        words = self.embeddings["word_embeddings"](ids) + self.embeddings["token_type_embeddings"].weight[0]
        states = self.emb_ln(words)
        for layer in self.encoder["layers"]:
            qkv = layer["attn"]["Wqkv"](states).view(len(ids), 3, self.config.n_head, -1).permute(1, 2, 0, 3)
            query, key = rotated(qkv[0]), rotated(qkv[1])
            seen = nn.functional.scaled_dot_product_attention(query, key, qkv[2]).transpose(0, 1).flatten(1)
            states = layer["norm1"](states + layer["attn"]["out_proj"](seen))
            states = layer["norm2"](states + self._widened(layer["mlp"], states))
        return BaseModelOutput(last_hidden_state=states[None])

    def _widened(self, mlp: Any, states: torch.Tensor) -> Any:
        if "fc1" in mlp:
            return mlp["fc2"](gelu(mlp["fc1"](states)))
        likes = mlp["router"]["layer"](states).softmax(dim=-1)
        weights = likes * (likes >= likes.topk(self.config.moe_top_k).values[:, -1:])  # of the others nothing
        w1, w2 = (mlp["experts"]["mlp"][name].unflatten(0, (self.config.num_experts, -1)) for name in ("w1", "w2"))
        outputs = gelu(states @ w1.transpose(1, 2)) @ w2  # (experts, tokens, size)
        return torch.einsum("te,ets->ts", weights, outputs) + mlp["experts"].bias


def rotated(states: torch.Tensor) -> torch.Tensor:
    """Turn each pair of numbers of *states*, (heads, tokens, width), by its text's place."""
    tokens, width = states.shape[1:]
    angles = torch.arange(tokens)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    left, right = states.chunk(2, dim=-1)
    return torch.cat([left * angles.cos() - right * angles.sin(), right * angles.cos() + left * angles.sin()], dim=-1)


class LlamaBidirectionalConfig(hf.LlamaConfig):  # type: ignore[misc] # which has no types
    """NVIDIA's, of a type that Transformers does not know."""

    model_type = "llama_bidirec"
    is_causal: bool = False  # what their code does in masks of its own


class LlamaBidirectionalModel(hf.LlamaModel):  # type: ignore[misc] # likewise
    """llama-nemotron-embed: a Llama that looks to both sides."""

    config_class = LlamaBidirectionalConfig


hf.AutoConfig.register(LlamaBidirectionalConfig.model_type, LlamaBidirectionalConfig)
hf.AutoModel.register(LlamaBidirectionalConfig, LlamaBidirectionalModel)


class Voyage(nn.Module):
    """voyage-4-nano: a Qwen3 that looks to both sides, and a matrix behind it."""

    def __init__(self, config: Any) -> None:
        """Make as many layers as *config* has."""
        super().__init__()
        self.config = config
        self.model = hf.Qwen3Model(hf.Qwen3Config(**{**config.to_dict(), "is_causal": False}))
        self.linear = nn.Linear(config.hidden_size, config.num_labels, bias=False)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> BaseModelOutput:
        """Return the states of one text, (1, tokens, labels)."""
        return BaseModelOutput(last_hidden_state=self.linear(self.model(input_ids=input_ids).last_hidden_state))


class JinaBert(nn.Module):
    """jina-embeddings-v2; *code* makes it the one for code."""

    def __init__(self, config: Any, *, code: bool = False) -> None:
        """Make as many layers as *config* has."""
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        self.config = config
        parts = {
            "word_embeddings": nn.Embedding(config.vocab_size, size),
            "token_type_embeddings": nn.Embedding(config.type_vocab_size, size),
            "LayerNorm": nn.LayerNorm(size, eps=eps),
        }
        self.embeddings: Any = nn.ModuleDict(parts)
        layer = CodeLayer if code else Layer
        self.encoder: Any = nn.ModuleDict(
            {"layer": nn.ModuleList(layer(config) for _ in range(config.num_hidden_layers))}
        )

    def forward(self, input_ids: torch.Tensor, **_: Any) -> BaseModelOutput:
        """Return the states of one text, (1, tokens, size)."""
        (ids,) = input_ids
        words = self.embeddings["word_embeddings"](ids) + self.embeddings["token_type_embeddings"].weight[0]
        states = self.embeddings["LayerNorm"](words)
        for layer in self.encoder["layer"]:
            states = layer(states)
        return BaseModelOutput(last_hidden_state=states[None])


def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int) -> Any:
    """Attend within a text; each is (tokens, size). A score falls with the distance, in each head by its slope."""
    q, k, v = (whole.view(len(whole), heads, -1).transpose(0, 1) for whole in (query, key, value))
    places = torch.arange(len(query))
    distance = (places[:, None] - places).abs()
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 - torch.tensor(SLOPES[heads])[:, None, None] * distance
    return (scores.softmax(dim=-1) @ v).transpose(0, 1).flatten(1)


class Layer(nn.Module):
    """A layer of the models for English, German and other languages."""

    def __init__(self, config: Any) -> None:
        """Make its parts."""
        super().__init__()
        size, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.heads = config.num_attention_heads
        own = {name: nn.Linear(size, size) for name in ("query", "key", "value")}
        out = {"dense": nn.Linear(size, size), "LayerNorm": nn.LayerNorm(size, eps=eps)}
        self.attention: Any = nn.ModuleDict({"self": nn.ModuleDict(own), "output": nn.ModuleDict(out)})
        mlp = {
            "gated_layers": nn.Linear(size, 2 * inner, bias=False),
            "wo": nn.Linear(inner, size),
            "layernorm": nn.LayerNorm(size, eps=eps),
        }
        self.mlp: Any = nn.ModuleDict(mlp)

    def forward(self, states: torch.Tensor) -> Any:
        """Return the states after this layer, (tokens, size)."""
        own, out = self.attention["self"], self.attention["output"]
        seen = attended(own["query"](states), own["key"](states), own["value"](states), self.heads)
        states = out["LayerNorm"](out["dense"](seen) + states)
        gate, plain = self.mlp["gated_layers"](states).chunk(2, dim=-1)
        return self.mlp["layernorm"](self.mlp["wo"](gelu(gate) * plain) + states)


class CodeLayer(nn.Module):
    """A layer of the model for code."""

    def __init__(self, config: Any) -> None:
        """Make its parts."""
        super().__init__()
        size, inner, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        self.heads = config.num_attention_heads
        own: dict[str, nn.Module] = {name: nn.Linear(size, size) for name in ("query", "key", "value")}
        own |= {name: nn.LayerNorm(size, eps=eps) for name in ("layer_norm_q", "layer_norm_k")}
        out = {"dense": nn.Linear(size, size), "LayerNorm": nn.LayerNorm(size, eps=eps)}
        self.attention: Any = nn.ModuleDict({"self": nn.ModuleDict(own), "output": nn.ModuleDict(out)})
        self.layer_norm_1, self.layer_norm_2 = nn.LayerNorm(size, eps=eps), nn.LayerNorm(size, eps=eps)
        mlp = {"up_gated_layer": nn.Linear(size, 2 * inner, bias=False), "down_layer": nn.Linear(inner, size)}
        self.mlp: Any = nn.ModuleDict(mlp)

    def forward(self, states: torch.Tensor) -> Any:
        """Return the states after this layer, (tokens, size)."""
        own, out = self.attention["self"], self.attention["output"]
        query, key = own["layer_norm_q"](own["query"](states)), own["layer_norm_k"](own["key"](states))
        seen = attended(query, key, own["value"](states), self.heads)
        states = self.layer_norm_1(out["LayerNorm"](out["dense"](seen) + states) + states)
        plain, gate = self.mlp["up_gated_layer"](states).chunk(2, dim=-1)
        return self.layer_norm_2(self.mlp["down_layer"](plain * gelu(gate)) + states)
