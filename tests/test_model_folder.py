from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from handler.errors import StartError
from handler.model_folder import Matryoshka, read_model_folder
from handler.weights import overlay
from tests import models
from tests.models import edited

VOYAGE = {"model_type": "qwen3", "auto_map": {"AutoModel": "modeling_qwen3_bidirectional.Qwen3BidirectionalModel"}}


@pytest.mark.parametrize(("name", "word"), models.REFUSED.items())
def test_what_vllm_would_serve_differently_is_refused_by_name(name: str, word: str, folders: Path) -> None:
    """vLLM loads each of these folders and gives other vectors than sentence-transformers."""
    with pytest.raises(StartError, match=word):
        read_model_folder(models.refused(name, folders))


@pytest.mark.parametrize(
    ("name", "pooling", "normalizes", "dense_layers"),
    [
        ("xlm-roberta-cls", "CLS", True, 0),
        ("xlm-roberta-raw", "CLS", False, 0),
        ("modernbert-mean", "MEAN", True, 0),
        ("modernbert-dense", "MEAN", True, 1),
        ("modernbert-dense-identity", "MEAN", False, 1),
        ("qwen3-last", "LAST", True, 0),
    ],
)
def test_what_a_folder_says(name: str, pooling: str, normalizes: bool, dense_layers: int, folders: Path) -> None:  # noqa: FBT001
    """Both the old and the new class names of sentence-transformers are read."""
    folder = read_model_folder(models.build(name, folders))
    assert (folder.pooling, folder.normalizes, folder.dense_layers) == (pooling, normalizes, dense_layers)


def test_prompts_and_flags(folders: Path) -> None:
    """They come from the sentence-transformers files."""
    folder = read_model_folder(models.build("bert-matryoshka", folders))
    assert folder.prompts == {"query": "query: ", "document": "passage: "}
    assert folder.default_prompt_name == "document"
    assert read_model_folder(models.build("bert-lower", folders)).lower_case


def test_a_folder_without_modules_leaves_the_pooling_to_vllm(folders: Path, tmp_path: Path) -> None:
    """vLLM normalises such models."""
    folder = read_model_folder(edited(folders, tmp_path, "bert-truncating", modules=None))
    assert folder.pooling is None
    assert folder.normalizes


def test_models_with_an_attention_of_their_own_are_eager(folders: Path) -> None:
    """It looks at the lengths of texts."""
    names = ("mpnet-mean", "jina-mean", "jina-code", "t5-mean", "gte-cls", "voyage-mean", "bert-lower")
    assert [name for name in names if read_model_folder(models.build(name, folders)).eager] == list(names[:4])


@pytest.mark.parametrize(
    ("family", "override", "expected"),
    [
        ({}, None, Matryoshka()),
        ({"matryoshka_dimensions": [16, 32]}, None, Matryoshka(sizes=(16, 32))),
        ({"is_matryoshka": True}, None, Matryoshka(minimum=1)),
        ({"model_type": "qwen3"}, None, Matryoshka(minimum=32)),
        ({"model_type": "gemma3_text"}, None, Matryoshka(sizes=(512, 256, 128))),
        (VOYAGE, None, Matryoshka(sizes=(1024, 512, 256))),
        ({"matryoshka_dimensions": [16, 32]}, (8,), Matryoshka(sizes=(8,))),
        ({}, "any", Matryoshka(minimum=1)),
    ],
)
def test_which_sizes_a_model_can_be_cut_to(
    family: dict[str, Any], override: Any, expected: Matryoshka, folders: Path, tmp_path: Path
) -> None:
    """Its config, its family, or the operator."""
    folder = edited(folders, tmp_path, "bert-truncating", config=lambda config: config | family)
    assert read_model_folder(folder, matryoshka=override).matryoshka == expected


@pytest.mark.parametrize(
    ("name", "change", "seen"),
    [
        ("bert-lower", {"max_seq_length": 512}, {"max_seq_length": 64, "do_lower_case": True}),
        ("bert-lower", {"max_seq_length": None}, {"max_seq_length": 64, "do_lower_case": True}),
        ("xlm-roberta-cls", {"max_seq_length": 130}, {"max_seq_length": 128, "do_lower_case": False}),
        ("xlm-roberta-cls", {"max_seq_length": None}, {"max_seq_length": 128, "do_lower_case": False}),
    ],
)
def test_lengths_beyond_the_positions_are_corrected_for_vllm(
    name: str, change: dict[str, Any], seen: dict[str, Any], folders: Path, tmp_path: Path
) -> None:
    """vLLM would read past its position table, or fail on the null; the folder itself is left alone."""
    folder = edited(folders, tmp_path, name, sentence_bert_config=lambda config: config | change)
    patches = read_model_folder(folder).patches
    assert patches == {"sentence_bert_config.json": seen}
    view = overlay(folder, patches)
    assert json.loads((view / "sentence_bert_config.json").read_text()) == seen
    assert (view / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert json.loads((folder / "sentence_bert_config.json").read_text()) | change == json.loads(
        (folder / "sentence_bert_config.json").read_text()
    )


def test_a_length_that_only_the_tokenizer_says_counts(folders: Path, tmp_path: Path) -> None:
    """sentence-transformers 6 writes it there alone; a model without its modules is left to vLLM."""
    limits = {"sentence_bert_config": None, "tokenizer_config": lambda config: config | {"model_max_length": 12}}
    folder = edited(folders, tmp_path, "bert-truncating", **limits)
    assert read_model_folder(folder).patches == {"sentence_bert_config.json": {"max_seq_length": 12}}
    (folder / "modules.json").unlink()
    assert read_model_folder(folder).patches == {}


@pytest.mark.parametrize(
    ("family", "said"),
    [
        (
            "umt5",
            "no encoder with a bias of its own in each layer; not served, take another model: multilingual-e5-base",
        ),
        (
            "deberta-v2",
            "no attention with DeBERTa's relative positions; not served, take another model: gte",
        ),
    ],
)
def test_a_family_that_vllm_lacks_something_for_is_refused_with_another_to_take(
    family: str, said: str, folders: Path, tmp_path: Path
) -> None:
    """Before vLLM is imported, and in plainer words than its own."""
    folder = edited(folders, tmp_path, "bert-lower", config=lambda config: config | {"model_type": family})
    with pytest.raises(StartError, match=said):
        read_model_folder(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"modules": lambda modules: [modules[0] | {"path": "0_Transformer"}, *modules[1:]]},
            "the Transformer lies in 0_Transformer",
        ),
        (
            {"sentence_bert_config": lambda config: config | {"tokenizer_args": {"do_lower_case": True}}},
            "tokenizer_args with do_lower_case",
        ),
        ({"sentence_bert_config": lambda config: config | {"max_seq_length": 0}}, "max_seq_length must be a whole"),
        ({"sentence_bert_config": lambda config: config | {"max_seq_length": "12"}}, "max_seq_length must be a whole"),
        ({"config": lambda config: config | {"matryoshka_dimensions": "64"}}, "matryoshka_dimensions must be a list"),
        ({"config": lambda config: config | {"max_position_embeddings": "64"}}, "of a kind that does not belong"),
        (
            {"config_sentence_transformers": lambda _: {"prompts": {"a": "b"}, "default_prompt_name": "nope"}},
            "config_sentence_transformers.json: default_prompt_name 'nope'",
        ),
        ({"config_sentence_transformers": lambda _: {"prompts": ["a"]}}, "of a kind that does not belong"),
    ],
)
def test_what_would_be_read_wrongly_is_refused_by_its_file(
    changes: dict[str, Any], said: str, folders: Path, tmp_path: Path
) -> None:
    """Vectors would silently be others than sentence-transformers', or the start would end in a riddle."""
    with pytest.raises(StartError, match=said):
        read_model_folder(edited(folders, tmp_path, "bert-matryoshka", **changes))


def test_a_sound_folder_is_not_touched(folders: Path) -> None:
    """No overlay where nothing needs one."""
    folder = read_model_folder(models.build("xlm-roberta-cls", folders))
    assert folder.patches == {}
    assert overlay(folder.path, folder.patches) is folder.path


def test_a_root_without_config_is_told_what_its_modules_say(folders: Path, tmp_path: Path) -> None:
    """The Transformer's folder alone would be pooled as vLLM likes."""
    folder = edited(folders, tmp_path, "bert-matryoshka", config=None)
    with pytest.raises(StartError, match=r"has no config\.json; it belongs beside modules\.json"):
        read_model_folder(folder)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([modules[0] | {"path": "0_Transformer"}, *modules[1:]]))
    with pytest.raises(StartError, match="the Transformer lies in 0_Transformer"):
        read_model_folder(folder)


def test_broken_folders_are_named(tmp_path: Path) -> None:
    """Each with what to do."""
    with pytest.raises(StartError, match="does not exist; set EMBED_MODEL_PATH"):
        read_model_folder(tmp_path / "none")
    with pytest.raises(StartError, match=r"has no config\.json"):
        read_model_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(StartError, match="not valid JSON"):
        read_model_folder(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(StartError, match="JSON object"):
        read_model_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "modules.json").write_text('[{"type": 1}]')
    with pytest.raises(StartError, match="list of modules"):
        read_model_folder(tmp_path)


@pytest.mark.parametrize("place", ["../outside", "/etc", "a/../../outside"])
def test_a_module_s_path_cannot_lead_out_of_the_folder(place: str, folders: Path, tmp_path: Path) -> None:
    """Neither up nor to an absolute place."""

    def elsewhere(modules: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [module | ({"path": place} if module["path"] else {}) for module in modules]

    with pytest.raises(StartError, match=r"modules\.json names .* leads out of the model's folder"):
        read_model_folder(edited(folders, tmp_path, "bert-truncating", modules=elsewhere))


def test_a_tokenizer_s_list_of_files_cannot_lead_out(folders: Path, tmp_path: Path) -> None:
    """Transformers would open what it names."""

    def elsewhere(config: dict[str, Any]) -> dict[str, Any]:
        return config | {"fast_tokenizer_files": ["../../tokenizer.4.0.json"]}

    with pytest.raises(StartError, match=r"tokenizer_config\.json names .* leads out"):
        read_model_folder(edited(folders, tmp_path, "bert-truncating", tokenizer_config=elsewhere))
