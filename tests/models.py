"""Tiny models with random weights, saved as real model folders are: each shows one thing that published models do.

Everything comes from fixed seeds, so a folder is the same wherever it is built; nothing is downloaded.
"""

import json
import re
import string
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import transformers as hf
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

Json = Mapping[str, Any]

DIM = 64
# Heads are 32 wide: vLLM's CPU attention loads smaller ones and fails at the first batch.
SHAPE: Json = {"hidden_size": DIM, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
CORPUS = """
Embeddings are dense vector representations of text that capture semantic meaning; search, clustering and
classification compare them. A short query finds long passages: "Where is the Eiffel Tower?" finds a page about Paris.
What is the capital of France, and who wrote Faust? Instruct: Given a web search query, retrieve relevant passages
that answer the query. Input text to be embedded, hello world, 2024-05-17, 3.14 and 42 %, user@example.com (see #7).
Der Übersetzer prüft größere Mengen von Wörtern und fragt: Was heißt das? Die Straße führt über die Brücke zum Schloß.
Être ou ne pas être, ça dépend du garçon, déjà vu à l'école; el niño comió piñata; Příliš žluťoučký kůň; Ωμέγα и слово.
東京は日本の首都です。今日はとても良い天気ですね。 你好世界。北京是中国的首都。 안녕하세요 세계. 🙂
"""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


def _pieces() -> tuple[list[str], list[str], list[str]]:
    """Cut the corpus into words, word ends and characters: the WordPiece and Unigram trainers are not deterministic."""
    words = sorted(set(re.findall(r"\w{2,}", CORPUS)))
    chars = set(CORPUS + string.printable) - set(string.whitespace)
    return words, sorted({word[-3:] for word in words}), sorted(chars)


def _train(tokenizer: Tokenizer, special: list[str]) -> Tokenizer:
    """Train byte-level BPE, which gives the same file every time."""
    chars = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=700, show_progress=False, special_tokens=special, initial_alphabet=chars)
    tokenizer.train_from_iterator(CORPUS.splitlines(), trainer)
    return tokenizer


def _template(tokenizer: Tokenizer, template: str) -> processors.TemplateProcessing:
    """Put the special tokens that *template* names around a text ``$A``."""
    names = [name for name in template.split() if name != "$A"]
    return processors.TemplateProcessing(single=template, special_tokens=[(n, tokenizer.token_to_id(n)) for n in names])


def _bert(folder: Path, *, truncating: bool = False) -> hf.PreTrainedConfig:
    """Make a BERT with a cased tokenizer, whose tokenizer.json may cut and pad to 16 tokens as MiniLM's does to 128."""
    words, ends, chars = _pieces()
    pieces = [*BERT_TOKENS, *chars, *words, *(f"##{piece}" for piece in ends + chars)]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = hf.BertTokenizer(vocab=vocab, do_lower_case=False, strip_accents=False, model_max_length=64)
    if truncating:
        tokenizer.backend_tokenizer.enable_truncation(16)
        tokenizer.backend_tokenizer.enable_padding(length=16)
    tokenizer.save_pretrained(folder)
    return hf.BertConfig(vocab_size=len(vocab), max_position_embeddings=64, pad_token_id=0, **SHAPE)


def _xlm_roberta(folder: Path, *, max_length: int = 128) -> hf.PreTrainedConfig:
    """Make an XLM-RoBERTa, whose positions begin at 2, so that 130 of them are 128 tokens."""
    words, ends, chars = _pieces()
    scores = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>"], 0.0)
    scores |= dict.fromkeys(["▁", *chars], -9.0) | dict.fromkeys(ends, -7.0)
    scores |= dict.fromkeys([f"▁{word}" for word in words], -6.0) | {"<mask>": 0.0}
    hf.XLMRobertaTokenizer(vocab=list(scores.items()), model_max_length=max_length).save_pretrained(folder)
    size = {"vocab_size": len(scores), "max_position_embeddings": 130, "pad_token_id": 1, "type_vocab_size": 1}
    return hf.XLMRobertaConfig(**{**SHAPE, **size})


def _camembert(folder: Path) -> hf.PreTrainedConfig:
    """Make a CamemBERT, the same but for the name of its class; its length is the tokenizer's to say."""
    shape = _xlm_roberta(folder, max_length=40)
    kept = ("vocab_size", "max_position_embeddings", "pad_token_id", "type_vocab_size")
    return hf.CamembertConfig(**{**SHAPE, **{name: getattr(shape, name) for name in kept}})


def _modernbert(folder: Path) -> hf.PreTrainedConfig:
    """Make a ModernBERT with a global and a local layer; the local one sees 8 tokens to each side."""
    blank = Tokenizer(models.BPE())
    blank.pre_tokenizer, blank.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend = _train(blank, BERT_TOKENS)
    backend.post_processor = _template(backend, "[CLS] $A [SEP]")
    backend.save(str(folder / "tokenizer.json"))
    names = {f"{name.strip('[]').lower()}_token": name for name in BERT_TOKENS}
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256, **names}
    _write_json(folder / "tokenizer_config.json", options)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    size = {"vocab_size": backend.get_vocab_size(), "max_position_embeddings": 256, "local_attention": 16}
    return hf.ModernBertConfig(**{**SHAPE, **ids, **size})


def _qwen3(folder: Path, *, eos_by_flag: bool = False, hidden_size: int = DIM) -> hf.PreTrainedConfig:
    """Make a Qwen3 whose end mark comes from tokenizer.json, as published, or from ``add_eos_token``.

    Transformers 5 obeys that flag only where there is no tokenizer.json, so that folder has vocab.json and merges.txt.
    """
    backend = _train(hf.Qwen2Tokenizer().backend_tokenizer, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    end_mark = _template(backend, "$A <|endoftext|>")
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), end_mark])
    if eos_by_flag:
        backend.model.save(str(folder))
    else:
        backend.save(str(folder / "tokenizer.json"))
    names = {"eos_token": "<|endoftext|>" if eos_by_flag else "<|im_end|>", "pad_token": "<|endoftext|>"}
    flags = {"add_bos_token": False, "add_eos_token": eos_by_flag, "model_max_length": 131072}
    options = {"tokenizer_class": "Qwen2Tokenizer", "chat_template": CHAT_TEMPLATE, **names, **flags}
    _write_json(folder / "tokenizer_config.json", options)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    size = {"vocab_size": backend.get_vocab_size(), "max_position_embeddings": 256, "hidden_size": hidden_size}
    return hf.Qwen3Config(**{**SHAPE, **heads, **ids, **size})


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


def _dense(activation: str, *, size: int = DIM, bias: bool = False, weights: bool = True, **more: bool) -> Module:
    shapes = {"linear.weight": (size, DIM)} | ({"linear.bias": (size,)} if bias else {})
    activation = f"torch.nn.modules.{activation}"
    layer = {"in_features": DIM, "out_features": size, "bias": bias, "activation_function": activation}
    return Module(OLD + "Dense", layer | more, shapes if weights else {})


TRANSFORMER, NORMALIZE = Module(OLD + "Transformer"), Module(OLD + "Normalize")
CLS, MEAN, LAST = _pooling("cls_token"), _pooling("mean_tokens"), _pooling("lasttoken")
LAYER_NORM = Module(OLD + "LayerNorm", {"dimension": DIM}, {"norm.weight": (DIM,), "norm.bias": (DIM,)})
TANH, IDENTITY = "activation.Tanh", "linear.Identity"
PROMPTS = {"prompts": {"query": "query: ", "document": "passage: "}, "default_prompt_name": "document"}


def _bert_recipe(*modules: Module, truncating: bool = False, lower: bool = False, **more: Json) -> Recipe:
    sentence_bert = {"max_seq_length": 64, "do_lower_case": lower}
    return Recipe(partial(_bert, truncating=truncating), (TRANSFORMER, *modules), sentence_bert=sentence_bert, **more)


def _xlm_roberta_recipe(*modules: Module) -> Recipe:
    sentence_bert = {"max_seq_length": 128, "do_lower_case": False}
    position = {"position_embedding_type": "absolute"}  # as published: transformers 5 leaves it out, vLLM needs it
    return Recipe(_xlm_roberta, (TRANSFORMER, *modules), config=position, sentence_bert=sentence_bert)


def _modernbert_recipe(*modules: Module) -> Recipe:
    """Write it as sentence-transformers 6 does, which names the same classes and fields in another way."""
    named = [replace(module, type=NEW[module.type], config={**module.config, **KEYS}) for module in modules]
    first, mean = Module(NEW[TRANSFORMER.type]), Module(NEW[MEAN.type], NEW_MEAN)
    return Recipe(_modernbert, (first, mean, *named), sentence_bert=NEW_SENTENCE_BERT)


def _qwen3_recipe(*, eos_by_flag: bool = False, hidden_size: int = DIM) -> Recipe:
    return Recipe(
        partial(_qwen3, eos_by_flag=eos_by_flag, hidden_size=hidden_size),
        (TRANSFORMER, LAST, NORMALIZE),
        config={"architectures": ["Qwen3ForCausalLM"], "is_matryoshka": True},
        prompts={"prompts": {"query": INSTRUCTION, "document": ""}, "default_prompt_name": None},
    )


RECIPES = {
    "xlm-roberta-cls": _xlm_roberta_recipe(CLS, NORMALIZE),
    "xlm-roberta-raw": _xlm_roberta_recipe(CLS),
    "camembert-mean": Recipe(_camembert, (TRANSFORMER, MEAN, NORMALIZE)),
    "modernbert-mean": _modernbert_recipe(NORMALIZE),
    "modernbert-dense": _modernbert_recipe(_dense(TANH, size=48, bias=True), NORMALIZE),
    "modernbert-dense-identity": _modernbert_recipe(_dense(IDENTITY)),
    "qwen3-last": _qwen3_recipe(),
    "qwen3-eos-flag": _qwen3_recipe(eos_by_flag=True),
    "bert-lower": _bert_recipe(CLS, lower=True),
    "bert-truncating": _bert_recipe(MEAN, NORMALIZE, truncating=True),
    "bert-matryoshka": _bert_recipe(MEAN, NORMALIZE, config={"matryoshka_dimensions": [16, 32]}, prompts=PROMPTS),
    "qwen3-embedding-8b": _qwen3_recipe(hidden_size=160),  # can be cut to PhariaInference's 128
}
NAMES: tuple[str, ...] = tuple(name for name in RECIPES if name != "qwen3-embedding-8b")

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
REFUSED: dict[str, str] = {name: word for name, (_, word) in BROKEN.items()}


def build(name: str, parent: Path) -> Path:
    """Return *parent*/*name*, one of ``NAMES``, building it if it is not there."""
    return _build(RECIPES[name], parent / name)


def refused(name: str, parent: Path) -> Path:
    """Return *parent*/*name*, one of ``REFUSED``: vLLM would load it, or fail late, and give other vectors."""
    return _build(BROKEN[name][0], parent / name)


def _build(recipe: Recipe, folder: Path) -> Path:
    """Write beside *folder* and rename, so that a folder that is there is complete."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as scratch:
        work = Path(scratch) / folder.name
        work.mkdir()
        _write_model(recipe, work)
        _write_modules(recipe, work)
        try:
            work.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    return folder


def _write_model(recipe: Recipe, folder: Path) -> None:
    model = cast("Any", hf.AutoModel).from_config(recipe.backbone(folder))  # which has no types
    values = _random({name: tuple(value.shape) for name, value in model.named_parameters()})
    model.load_state_dict(values, strict=False)  # not strict: position_ids and the like stay
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _write_json(folder / "config.json", config | {"architectures": [type(model).__name__]} | dict(recipe.config))


def _write_modules(recipe: Recipe, folder: Path) -> None:
    entries: list[Json] = []
    for index, module in enumerate(recipe.modules):
        path = f"{index}_{module.type.rsplit('.', 1)[1]}" if index else ""  # the transformer's is the root
        entries.append({"idx": index, "name": str(index), "path": path, "type": module.type})
        _write_json(folder / path / "config.json", module.config)
        if module.weights:
            save_file(_random(module.weights), folder / path / "model.safetensors")
    _write_json(folder / "modules.json", entries)
    _write_json(folder / "sentence_bert_config.json", recipe.sentence_bert)
    _write_json(folder / "config_sentence_transformers.json", recipe.prompts)


def _random(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Draw every tensor, biases too: with a usual start (small, biases 0) all texts come out alike."""
    generator = torch.Generator().manual_seed(0)
    drawn = {name: 0.25 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: value + name.lower().endswith("norm.weight") for name, value in drawn.items()}


def _write_json(path: Path, value: Json | list[Json]) -> None:
    """Write *value*; nothing is written for an empty one."""
    if value:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
