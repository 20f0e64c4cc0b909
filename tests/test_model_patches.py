from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from handler.errors import StartError
from handler.model_folder import read_model_folder
from tests import models
from tests.models import edited
from tests.recipes import PUBLISHED


@pytest.mark.parametrize("name", ["jina-mean", "jina-code", "voyage-mean", "llama-mean", "nomic-moe", *PUBLISHED])
def test_models_that_are_shown_as_others_need_no_code(name: str, folders: Path, tmp_path: Path) -> None:
    """Nobody who has read it and trusts it has it run, either: vLLM's own class computes them."""
    published = PUBLISHED.get(name, {})
    folder = edited(folders, tmp_path, name, config=lambda config: config | published)
    assert json.loads((folder / "config.json").read_text())["auto_map"]
    assert "auto_map" not in read_model_folder(folder).patches["config.json"]


def test_a_gte_that_is_left_as_it_is_keeps_its_code(folders: Path, tmp_path: Path) -> None:
    """What Transformers' GTE does not do, its own may."""
    code = {**PUBLISHED["gte-cls"], "logn_attention_scale": True}
    folder = edited(folders, tmp_path, "gte-cls", config=lambda config: config | code)
    assert "config.json" not in read_model_folder(folder).patches


def test_voyage_is_told_from_qwen3_by_its_code(folders: Path) -> None:
    """That code is not run: vLLM has a class that looks to both sides and has the matrix behind."""
    seen = read_model_folder(models.build("voyage-mean", folders)).patches["config.json"]
    assert seen["architectures"] == ["VoyageQwen3BidirectionalEmbedModel"]
    assert "auto_map" not in seen
    assert seen["model_type"] == "qwen3"
    assert "config.json" not in read_model_folder(models.build("qwen3-last", folders)).patches


def test_no_type_of_number_is_kept_of_a_t5(folders: Path, tmp_path: Path) -> None:
    """In float16, as some are published, it overflows: vLLM gets bfloat16 for GPUs, and CPUs compute in float32."""
    folder = read_model_folder(
        edited(folders, tmp_path, "t5-mean", config=lambda config: config | {"dtype": "float16"})
    )
    assert folder.dtype is None
    assert folder.patches["config.json"]["dtype"] == "bfloat16"


def test_robertas_positions_are_named_for_vllm(folders: Path, tmp_path: Path) -> None:
    """Transformers 5 does not write the key any more and vLLM does not load without it; null says nothing."""

    def without(config: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in config.items() if key != "position_embedding_type"}

    folder = edited(folders, tmp_path, "xlm-roberta-cls", config=without)
    assert read_model_folder(folder).patches["config.json"]["position_embedding_type"] == "absolute"
    null = json.loads((folder / "config.json").read_text()) | {"position_embedding_type": None}
    (folder / "config.json").write_text(json.dumps(null))
    assert read_model_folder(folder).patches["config.json"]["position_embedding_type"] == "absolute"


def test_a_class_that_vllm_has_not_gets_the_name_of_one_it_has(folders: Path, tmp_path: Path) -> None:
    """The general class would count its positions from 0; where there is no other, the model is refused."""
    folder = read_model_folder(models.build("camembert-mean", folders))
    assert folder.architecture == "CamembertModel"
    assert folder.patches["config.json"]["architectures"] == ["RobertaModel"]
    strange = edited(folders, tmp_path, "bert-lower", config=lambda config: config | {"model_type": "luke"})
    with pytest.raises(StartError, match="positions of luke models"):
        read_model_folder(strange)


@pytest.mark.parametrize(
    ("name", "kept", "seen"),
    [
        ("bert-lower", "BertForMaskedLM", "BertModel"),
        ("bert-lower", "BertForPreTraining", "BertModel"),
        ("modernbert-mean", "ModernBertForMaskedLM", "ModernBertModel"),
    ],
)
def test_an_embedding_model_may_have_kept_the_class_of_a_language_model(
    name: str, kept: str, seen: str, folders: Path, tmp_path: Path
) -> None:
    """Without sentence-transformers modules it may be one for sparse vectors, as vLLM takes it."""
    folder = edited(folders, tmp_path, name, config=lambda config: config | {"architectures": [kept]})
    assert read_model_folder(folder).patches["config.json"]["architectures"] == [seen]
    (folder / "modules.json").unlink()
    assert "config.json" not in read_model_folder(folder).patches


@pytest.mark.parametrize(
    ("name", "added", "size"), [("albert-mean", {}, 64), ("albert-dense", {"position_embedding_type": None}, 48)]
)
def test_alberts_vectors_are_as_wide_as_its_last_module(
    name: str, added: dict[str, Any], size: int, folders: Path, tmp_path: Path
) -> None:
    """The words' width, which vLLM would take for it, has another name; positions that are null are absolute."""
    folder = read_model_folder(edited(folders, tmp_path, name, config=lambda config: config | added))
    seen = folder.patches["config.json"]
    assert (seen["architectures"], seen["word_size"], seen["embedding_size"]) == (["BertModel"], 32, size)
    assert seen.get("position_embedding_type", "absolute") == "absolute"


def test_a_distilbert_is_shown_to_vllm_as_bert(folders: Path) -> None:
    """Its own name stays where people read it, its type where its weights are loaded."""
    folder = read_model_folder(models.build("distilbert-dense", folders))
    assert folder.architecture == "DistilBertModel"
    seen = folder.patches["config.json"]
    assert (seen["architectures"], seen["model_type"]) == (["BertModel"], "distilbert")
    assert (seen["hidden_act"], seen["intermediate_size"]) == ("relu", 96)
