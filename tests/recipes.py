"""What each tiny model is made of: its backbone, its sentence-transformers modules, and what its files say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import transformers as hf

from tests.backbones import (
    DIM,
    Json,
    albert,
    bert,
    camembert,
    distilbert,
    gemma3,
    gte,
    jina,
    llama,
    modernbert,
    mpnet,
    nomic,
    nomic_moe,
    qwen3,
    t5,
    xlm_roberta,
)

INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


@dataclass(frozen=True, slots=True)
class Module:
    """One entry of modules.json; without a config it has no folder, as git and so the hub keep no empty ones."""

    type: str
    config: Json = field(default_factory=dict)
    weights: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # name -> shape


@dataclass(frozen=True, slots=True)
class Recipe:
    """A folder: *backbone* writes the tokenizer and says which model; *config* is added to config.json."""

    backbone: Callable[[Path], hf.PreTrainedConfig]
    modules: tuple[Module, ...]
    config: Json = field(default_factory=dict)
    sentence_bert: Json = field(default_factory=dict)  # sentence_bert_config.json
    prompts: Json = field(default_factory=dict)  # config_sentence_transformers.json


OLD = "sentence_transformers.models."  # what most published folders say
NEW = {
    OLD + "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    OLD + "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    OLD + "Dense": "sentence_transformers.base.modules.dense.Dense",
    OLD + "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
KEYS = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
NEW_MEAN = {"embedding_dimension": DIM, "pooling_mode": "mean", "include_prompt": True}
NEW_SENTENCE_BERT = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def _pooling(*modes: str, include_prompt: bool = True) -> Module:
    flags = {f"pooling_mode_{mode}": mode in modes for mode in MODES}
    return Module(OLD + "Pooling", {"word_embedding_dimension": DIM, **flags, "include_prompt": include_prompt})


def _dense(
    activation: str, *, inputs: int = DIM, size: int = DIM, bias: bool = False, weights: bool = True, **more: bool
) -> Module:
    shapes = {"linear.weight": (size, inputs)} | ({"linear.bias": (size,)} if bias else {})
    activation = f"torch.nn.modules.{activation}"
    layer = {"in_features": inputs, "out_features": size, "bias": bias, "activation_function": activation}
    return Module(OLD + "Dense", layer | more, shapes if weights else {})


TRANSFORMER, NORMALIZE = Module(OLD + "Transformer"), Module(OLD + "Normalize")
CLS, MEAN, LAST = _pooling("cls_token"), _pooling("mean_tokens"), _pooling("lasttoken")
LAYER_NORM = Module(OLD + "LayerNorm", {"dimension": DIM}, {"norm.weight": (DIM,), "norm.bias": (DIM,)})
TANH, IDENTITY = "activation.Tanh", "linear.Identity"
PROMPTS = {"prompts": {"query": "query: ", "document": "passage: "}, "default_prompt_name": "document"}


def _bert_recipe(*modules: Module, truncating: bool = False, lower: bool = False, **more: Any) -> Recipe:
    sentence_bert = {"max_seq_length": 64, "do_lower_case": lower}
    return Recipe(partial(bert, truncating=truncating), (TRANSFORMER, *modules), sentence_bert=sentence_bert, **more)


def _xlm_roberta_recipe(*modules: Module) -> Recipe:
    sentence_bert = {"max_seq_length": 128, "do_lower_case": False}
    position = {"position_embedding_type": "absolute"}  # as published: transformers 5 leaves it out, vLLM needs it
    return Recipe(xlm_roberta, (TRANSFORMER, *modules), config=position, sentence_bert=sentence_bert)


def _modernbert_recipe(*modules: Module) -> Recipe:
    """Write it as sentence-transformers 6 does, which names the same classes and fields in another way."""
    named = [replace(module, type=NEW[module.type], config={**module.config, **KEYS}) for module in modules]
    first, mean = Module(NEW[TRANSFORMER.type]), Module(NEW[MEAN.type], NEW_MEAN)
    return Recipe(modernbert, (first, mean, *named), sentence_bert=NEW_SENTENCE_BERT)


def _qwen3_recipe(*, eos_by_flag: bool = False, hidden_size: int = DIM) -> Recipe:
    return Recipe(
        partial(qwen3, eos_by_flag=eos_by_flag, hidden_size=hidden_size),
        (TRANSFORMER, LAST, NORMALIZE),
        config={"architectures": ["Qwen3ForCausalLM"], "is_matryoshka": True},
        prompts={"prompts": {"query": INSTRUCTION, "document": ""}, "default_prompt_name": None},
    )


def _jina_recipe(*, code: bool = False) -> Recipe:
    published = {"architectures": ["JinaBertForMaskedLM"], "model_max_length": 512}
    return Recipe(
        partial(jina, code=code),
        (TRANSFORMER, MEAN),
        config=published,
        sentence_bert={"max_seq_length": 512, "do_lower_case": False},
    )


def _t5_recipe(*, feed_forward: str = "relu") -> Recipe:
    return Recipe(
        partial(t5, feed_forward=feed_forward),
        (TRANSFORMER, MEAN, _dense(IDENTITY, size=48), NORMALIZE),
        sentence_bert={"max_seq_length": 256, "do_lower_case": False},
    )


def _voyage_recipe() -> Recipe:
    code = {"AutoModel": "modeling_qwen3_bidirectional.Qwen3BidirectionalModel"}
    own: Json = {"auto_map": code, "use_bidirectional_attention": True, "num_labels": 48}
    prompts = {"query": "Represent the query for retrieving supporting documents: ", "document": ""}
    return Recipe(
        partial(qwen3, own=own),
        (TRANSFORMER, MEAN, NORMALIZE),
        config={"architectures": ["Qwen3ForCausalLM"]},
        prompts={"prompts": prompts, "default_prompt_name": None},
    )


def _embedding_gemma_recipe() -> Recipe:
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    return Recipe(
        gemma3,
        (TRANSFORMER, MEAN, _dense(IDENTITY, size=96), _dense(IDENTITY, inputs=96), NORMALIZE),
        sentence_bert={"max_seq_length": 128, "do_lower_case": False},
        prompts={"prompts": prompts, "default_prompt_name": None},
    )


RECIPES = {
    "xlm-roberta-cls": _xlm_roberta_recipe(CLS, NORMALIZE),
    "xlm-roberta-raw": _xlm_roberta_recipe(CLS),
    "camembert-mean": Recipe(camembert, (TRANSFORMER, MEAN, NORMALIZE)),
    "distilbert-mean": Recipe(distilbert, (TRANSFORMER, MEAN, NORMALIZE)),
    "distilbert-dense": Recipe(
        distilbert, (TRANSFORMER, CLS, _dense(TANH, size=48, bias=True)), config={"activation": "relu"}
    ),
    "albert-mean": Recipe(albert, (TRANSFORMER, MEAN, NORMALIZE)),
    "albert-dense": Recipe(albert, (TRANSFORMER, CLS, _dense(TANH, size=48, bias=True))),
    "mpnet-mean": Recipe(mpnet, (TRANSFORMER, MEAN, NORMALIZE), sentence_bert={"max_seq_length": 200}),
    "jina-mean": _jina_recipe(),
    "jina-code": _jina_recipe(code=True),
    "voyage-mean": _voyage_recipe(),
    "llama-mean": Recipe(
        llama,
        (TRANSFORMER, MEAN, NORMALIZE),
        config={"auto_map": {"AutoModel": "llama_bidirectional_model.LlamaBidirectionalModel"}, "pooling": "avg"},
    ),
    "t5-mean": _t5_recipe(),
    "t5-gated": _t5_recipe(feed_forward="gated-gelu"),
    "modernbert-mean": _modernbert_recipe(NORMALIZE),
    "modernbert-dense": _modernbert_recipe(_dense(TANH, size=48, bias=True), NORMALIZE),
    "modernbert-dense-identity": _modernbert_recipe(_dense(IDENTITY)),
    "qwen3-last": _qwen3_recipe(),
    "qwen3-eos-flag": _qwen3_recipe(eos_by_flag=True),
    "bert-lower": _bert_recipe(CLS, lower=True),
    "bert-truncating": _bert_recipe(MEAN, NORMALIZE, truncating=True),
    "bert-matryoshka": _bert_recipe(MEAN, NORMALIZE, config={"matryoshka_dimensions": [16, 32]}, prompts=PROMPTS),
    "embeddinggemma": _embedding_gemma_recipe(),
    "qwen3-embedding-8b": _qwen3_recipe(hidden_size=160),  # can be cut to PhariaInference's 128
    "gte-cls": Recipe(gte, (TRANSFORMER, CLS, NORMALIZE), sentence_bert={"max_seq_length": 128}),
    "nomic-moe": Recipe(
        nomic_moe,
        (TRANSFORMER, MEAN, NORMALIZE),
        config={"architectures": ["NomicBertModel"]},
        sentence_bert={"max_seq_length": 128},
    ),
    "nomic-mean": Recipe(nomic, (TRANSFORMER, MEAN, NORMALIZE), sentence_bert={"max_seq_length": 128}),
}
# What config.json of these says where they were made for code of their own: a null takes a key away.
PUBLISHED: dict[str, Json] = {
    "gte-cls": {
        "architectures": ["NewModel", "NewForTokenClassification"],
        "auto_map": {"AutoConfig": "org/code--configuration.NewConfig", "AutoModel": "org/code--modeling.NewModel"},
        "model_type": "new",
        "layer_norm_type": "layer_norm",
        "logn_attention_scale": False,
        "pack_qkv": True,
        "position_embedding_type": "rope",
        "rope_theta": 20000,
        "rope_scaling": {"type": "ntk", "factor": 8.0},
        "rope_parameters": None,
    },
    "nomic-mean": {
        "auto_map": {"AutoConfig": "org/code--nomic.NomicBertConfig", "AutoModel": "org/code--nomic.NomicBertModel"},
        "activation_function": "swiglu",
        "layer_norm_epsilon": 1e-12,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "n_embd": DIM,
        "n_head": 2,
        "n_inner": 96,
        "n_layer": 2,
        "n_positions": 8192,
        "qkv_proj_bias": False,
        "rotary_emb_base": 10000,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        **dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "head_dim")),
        **dict.fromkeys(("layer_norm_eps", "hidden_act", "max_position_embeddings", "rope_parameters")),
    },
}

# name -> the recipe, and a word that the refusal should say
BROKEN = {
    "pooling-max": (_bert_recipe(_pooling("max_tokens")), "max"),
    "pooling-weightedmean": (_bert_recipe(_pooling("weightedmean_tokens")), "weightedmean"),
    "pooling-mean-sqrt-len": (_bert_recipe(_pooling("mean_sqrt_len_tokens")), "mean_sqrt_len"),
    "pooling-concatenated": (_bert_recipe(_pooling("cls_token", "mean_tokens")), "concatenat"),
    "pooling-exclude-prompt": (_bert_recipe(_pooling("mean_tokens", include_prompt=False)), "include_prompt"),
    "dense-missing": (_bert_recipe(MEAN, _dense(TANH, weights=False)), "Dense"),
    "dense-activation": (_bert_recipe(MEAN, _dense("activation.Softshrink")), "Softshrink"),
    "dense-residual": (_bert_recipe(MEAN, _dense(TANH, use_residual=True)), "use_residual"),
    "module-unknown": (_bert_recipe(MEAN, LAYER_NORM), "LayerNorm"),
    "normalize-before-dense": (_bert_recipe(MEAN, NORMALIZE, _dense(TANH)), "order"),
}
