"""Tiny models and their tokenizers, of each family that is served; everything comes from fixed seeds."""

import json
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.networks import LlamaBidirectionalConfig

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


def bert(
    folder: Path, *, truncating: bool = False, kind: Any = hf.BertTokenizer, special: list[str] = BERT_TOKENS
) -> hf.PreTrainedConfig:
    """Make a BERT with a cased tokenizer, whose tokenizer.json may cut and pad to 16 tokens as MiniLM's does to 128."""
    words, ends, chars = _pieces()
    pieces = [*special, *chars, *words, *(f"##{piece}" for piece in ends + chars)]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = kind(vocab=vocab, do_lower_case=False, strip_accents=False, model_max_length=64)
    if truncating:
        tokenizer.backend_tokenizer.enable_truncation(16)
        tokenizer.backend_tokenizer.enable_padding(length=16)
    tokenizer.save_pretrained(folder)
    return hf.BertConfig(vocab_size=len(vocab), max_position_embeddings=64, pad_token_id=0, **SHAPE)


def mpnet(folder: Path) -> hf.PreTrainedConfig:
    """Make an MPNet, whose positions begin at 2, so that 202 are 200 tokens, more than its farthest distance."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"]
    vocab_size = bert(folder, kind=hf.MPNetTokenizer, special=special).vocab_size
    return hf.MPNetConfig(vocab_size=vocab_size, max_position_embeddings=202, **SHAPE)


def jina(folder: Path, *, code: bool = False) -> hf.PreTrainedConfig:
    """Make a jina-embeddings-v2, which says that it is a BERT; six heads are no power of two."""
    vocab_size = bert(folder).vocab_size
    shape = {**SHAPE} if code else {**SHAPE, "num_attention_heads": 6, "hidden_size": 192}
    python = f"jinaai/jina-bert-{'v2-qk-post-norm' if code else 'implementation'}--modeling_bert.JinaBertModel"
    own = {"position_embedding_type": "alibi", "feed_forward_type": "geglu", "auto_map": {"AutoModel": python}}
    return hf.BertConfig(vocab_size=vocab_size, max_position_embeddings=512, pad_token_id=0, **shape, **own)


def distilbert(folder: Path) -> hf.PreTrainedConfig:
    """Make a DistilBERT, which has words for the same sizes of its own."""
    vocab_size = bert(folder, kind=hf.DistilBertTokenizer).vocab_size
    size = {"dim": DIM, "n_layers": 2, "n_heads": 2, "hidden_dim": 96, "max_position_embeddings": 64}
    return hf.DistilBertConfig(vocab_size=vocab_size, pad_token_id=0, **size)


def _unigram(special: list[str]) -> dict[str, float]:
    """Score the pieces of a Unigram vocabulary that begins with *special*."""
    words, ends, chars = _pieces()
    scores = dict.fromkeys(special, 0.0) | dict.fromkeys(["▁", *chars], -9.0) | dict.fromkeys(ends, -7.0)
    return scores | dict.fromkeys([f"▁{word}" for word in words], -6.0)


def albert(folder: Path) -> hf.PreTrainedConfig:
    """Make an ALBERT, whose words are half as wide as its three layers, which are one; it reads small letters only."""
    scores = _unigram(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"])
    hf.AlbertTokenizer(vocab=list(scores.items()), model_max_length=64).save_pretrained(folder)
    size = {"vocab_size": len(scores), "max_position_embeddings": 64, "embedding_size": 32, "num_hidden_layers": 3}
    return hf.AlbertConfig(**{**SHAPE, **size})


def t5(folder: Path, *, feed_forward: str) -> hf.PreTrainedConfig:
    """Make a T5, whose texts may be longer than its farthest distance; heads are wider together than the layers."""
    scores = _unigram(["<pad>", "</s>", "<unk>"])
    hf.T5Tokenizer(vocab=list(scores.items()), extra_ids=0, model_max_length=256).save_pretrained(folder)
    size = {"d_model": DIM, "d_kv": 32, "d_ff": 96, "num_layers": 2, "num_heads": 4, "vocab_size": len(scores)}
    return hf.T5Config(**size, feed_forward_proj=feed_forward)


def xlm_roberta(folder: Path, *, max_length: int = 128) -> hf.PreTrainedConfig:
    """Make an XLM-RoBERTa, whose positions begin at 2, so that 130 of them are 128 tokens."""
    scores = _unigram(["<s>", "<pad>", "</s>", "<unk>"]) | {"<mask>": 0.0}
    hf.XLMRobertaTokenizer(vocab=list(scores.items()), model_max_length=max_length).save_pretrained(folder)
    size = {"vocab_size": len(scores), "max_position_embeddings": 130, "pad_token_id": 1, "type_vocab_size": 1}
    return hf.XLMRobertaConfig(**{**SHAPE, **size})


def camembert(folder: Path) -> hf.PreTrainedConfig:
    """Make a CamemBERT, the same but for the name of its class; its length is the tokenizer's to say."""
    shape = xlm_roberta(folder, max_length=40)
    kept = ("vocab_size", "max_position_embeddings", "pad_token_id", "type_vocab_size")
    return hf.CamembertConfig(**{**SHAPE, **{name: getattr(shape, name) for name in kept}})


def modernbert(folder: Path) -> hf.PreTrainedConfig:
    """Make a ModernBERT with a global and a local layer; the local one sees 8 tokens to each side."""
    blank = Tokenizer(models.BPE())
    blank.pre_tokenizer, blank.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend = _train(blank, BERT_TOKENS)
    backend.post_processor = _template(backend, "[CLS] $A [SEP]")
    backend.save(str(folder / "tokenizer.json"))
    names = {f"{name.strip('[]').lower()}_token": name for name in BERT_TOKENS}
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256, **names}
    write_json(folder / "tokenizer_config.json", options)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    size = {"vocab_size": backend.get_vocab_size(), "max_position_embeddings": 256, "local_attention": 16}
    return hf.ModernBertConfig(**{**SHAPE, **ids, **size})


def qwen3(
    folder: Path, *, eos_by_flag: bool = False, hidden_size: int = DIM, own: Json | None = None
) -> hf.PreTrainedConfig:
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
    write_json(folder / "tokenizer_config.json", options)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    size = {"vocab_size": backend.get_vocab_size(), "max_position_embeddings": 256, "hidden_size": hidden_size}
    return hf.Qwen3Config(**{**SHAPE, **heads, **ids, **size, **(own or {})})


def llama(folder: Path) -> hf.PreTrainedConfig:
    """Make one of NVIDIA's Llamas that look to both sides, here with Qwen3's tokenizer."""
    vocab_size = qwen3(folder).vocab_size
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    size = {"vocab_size": vocab_size, "max_position_embeddings": 256, "num_key_value_heads": 1}
    return LlamaBidirectionalConfig(**{**SHAPE, **ids, **size})


def gemma3(folder: Path) -> hf.PreTrainedConfig:
    """Make a Gemma 3 that looks to both sides, in every other layer 8 tokens far, as EmbeddingGemma does 256."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    backend = _train(hf.GemmaTokenizer().backend_tokenizer, special)
    backend.post_processor = _template(backend, "<bos> $A <eos>")
    backend.save(str(folder / "tokenizer.json"))
    names = {f"{name.strip('<>')}_token": name for name in special}
    flags = {"add_bos_token": True, "add_eos_token": True, "model_max_length": 256}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "GemmaTokenizer", **names, **flags})
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "query_pre_attn_scalar": 32}
    window = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
    size = {"vocab_size": backend.get_vocab_size(), "max_position_embeddings": 256}
    return hf.Gemma3TextConfig(**{**SHAPE, **heads, **window, **size}, use_bidirectional_attention=True)


def gte(folder: Path) -> hf.PreTrainedConfig:
    """Make a GTE, which has XLM-RoBERTa's tokenizer and rotary positions, scaled as in gte-multilingual-base."""
    vocab_size = xlm_roberta(folder).vocab_size
    scaled = {"rope_type": "linear", "rope_theta": 160_000.0, "factor": 8 ** (2 / 32)}
    positions = {"max_position_embeddings": 256, "rope_parameters": scaled}
    return hf.GteConfig(vocab_size=vocab_size, pad_token_id=1, type_vocab_size=1, **positions, **SHAPE)


def nomic(folder: Path) -> hf.PreTrainedConfig:
    """Make a Nomic BERT, which has BERT's tokenizer and rotary positions, here of another base than is usual."""
    vocab_size = bert(folder).vocab_size
    positions = {"max_position_embeddings": 256, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    return hf.NomicBertConfig(vocab_size=vocab_size, pad_token_id=0, type_vocab_size=2, **positions, **SHAPE)


def nomic_moe(folder: Path) -> hf.PreTrainedConfig:
    """Make a nomic-embed-text-v2-moe of four layers, two of them with experts, with XLM-RoBERTa's tokenizer."""
    own = {
        **SHAPE,
        "auto_map": {"AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
        "activation_function": "gelu",
        "layer_norm_epsilon": 1e-5,
        "moe_every_n_layers": 2,
        "moe_normalize_expert_weights": False,
        "moe_top_k": 2,
        "n_embd": DIM,
        "n_head": 2,
        "n_inner": 96,
        "n_layer": 4,
        "n_positions": 2048,
        "num_experts": 4,
        "num_hidden_layers": 4,
        "pad_token_id": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "rotary_emb_base": 10000,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "type_vocab_size": 1,
        "vocab_size": xlm_roberta(folder).vocab_size,
        **dict.fromkeys(("mlp_fc1_bias", "mlp_fc2_bias", "qkv_proj_bias"), True),
    }
    return hf.NomicBertConfig(**own)


def write_json(path: Path, value: Json | list[Json]) -> None:
    """Write *value*; nothing is written for an empty one."""
    if value:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
