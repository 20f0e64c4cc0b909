"""Model folders that hold a configuration and a small tokenizer but no weights: the engine makes those up."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
WORDS = [first + second for first, second in itertools.product(_SYLLABLES, _SYLLABLES[:30])]  # one token each
_END = "<|endoftext|>"
_BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30522,
    "dtype": "float32",
}
_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "use_cache": True,
    "vocab_size": 151669,
    "dtype": "bfloat16",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A published model's sizes; costs per token are its own, vectors mean nothing."""

    name: str
    config: dict[str, Any]
    pooling: str  # as sentence-transformers flags it
    dtype: str  # what `auto` makes of it on a GPU
    longer: int = 1  # times the seconds at 512 tokens a text, where a request takes seconds itself

    @property
    def special_tokens(self) -> int:
        """How many tokens the tokenizer puts around a text."""
        return 2 if self.config["model_type"] == "bert" else 1


def _bert(name: str, layers: int, hidden: int, heads: int, pooling: str) -> Shape:
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads}
    return Shape(name, {**_BERT, **sizes, "intermediate_size": 4 * hidden}, pooling, "float16")


def _qwen3(name: str, layers: int, hidden: int, heads: int, **more: Any) -> Shape:
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads}
    return Shape(name, {**_QWEN3, **sizes, "intermediate_size": 3 * hidden, **more}, "lasttoken", "bfloat16")


# MiniLM's own files cut at 256 tokens; its 512 positions are used here, so that every shape gets the same loads.
_ALL = (
    _bert("bge-base", 12, 768, 12, "cls_token"),
    _bert("minilm", 6, 384, 12, "mean_tokens"),
    _qwen3("qwen3-0.6b", 28, 1024, 16),
    replace(
        _qwen3("qwen3-8b", 36, 4096, 32, max_position_embeddings=40960, tie_word_embeddings=False, vocab_size=151665),
        longer=4,
    ),
    _bert("tiny", 2, 64, 2, "cls_token"),  # to try the bench itself, on a CPU
    _qwen3("tiny-qwen3", 2, 64, 2, num_key_value_heads=2, head_dim=32, max_position_embeddings=1024, vocab_size=4096),
)
SHAPES = {shape.name: shape for shape in _ALL}


def write_model(shape: Shape, parent: Path) -> Path:
    """Write the folder of *shape* into *parent* and return it."""
    folder = parent / shape.name
    bert = shape.config["model_type"] == "bert"
    tokenizer, names = _wordpiece() if bert else _byte_pairs()
    config = dict(shape.config)
    if not bert:
        config |= {"eos_token_id": tokenizer.token_to_id(_END), "bos_token_id": tokenizer.token_to_id(_END)}
    longest = config["max_position_embeddings"]
    hidden = config["hidden_size"]
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    files = {
        "config.json": config,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": longest, **names},
        "modules.json": [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(kinds.items())
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": hidden, f"pooling_mode_{shape.pooling}": True},
        "sentence_bert_config.json": {"max_seq_length": longest, "do_lower_case": False},
    }
    for path in kinds:
        (folder / path).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1))
    tokenizer.save(str(folder / "tokenizer.json"))
    # A safetensors file without a tensor: the server looks for weights before it starts its engine.
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return folder


def _wordpiece() -> tuple[Tokenizer, dict[str, str]]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {token: index for index, token in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, ends)
    tokenizer.add_special_tokens(special)
    return tokenizer, dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))


def _byte_pairs() -> tuple[Tokenizer, dict[str, str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4000, initial_alphabet=alphabet, special_tokens=[_END])
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(f"$A {_END}", None, [(_END, tokenizer.token_to_id(_END))])
    return tokenizer, {"pad_token": _END, "eos_token": _END}
