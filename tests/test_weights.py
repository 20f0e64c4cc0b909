from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from handler import trust, weights
from handler.errors import StartError
from handler.s3_model import Located

# A header of as many bytes as it says, of brackets that nobody closes.
_ENDLESS = (100_000).to_bytes(8, "little") + b"[" * 100_000


def saved(file: Path) -> Path:
    """Write a small safetensors file."""
    save_file({"w": torch.zeros(100, 100)}, file)
    return file


def locate(model_path: str | None, load_format: str = "auto") -> Located:
    """Look for a model that is not in a bucket."""
    return weights.locate_model(model_path, cache=Path("/nowhere"), attempts=1, load_format=load_format)


def test_the_default_model_is_the_packaged_one() -> None:
    """And it has the name its users know."""
    assert (locate(None).folder / "config.json").is_file()
    assert weights.model_name(None) == "all-MiniLM-L6-v2"


def test_other_models_are_named_by_their_folder() -> None:
    """As vLLM does."""
    assert locate("/mnt/models/bge") == Located(Path("/mnt/models/bge"))
    assert weights.model_name("/mnt/models/bge/") == "bge"
    assert weights.model_name("s3://bucket/org/bge/") == weights.model_name("s3://bucket/org/bge") == "bge"


def test_whole_files_pass(tmp_path: Path) -> None:
    """The shards that the index names, or one file, which comes first: so Transformers reads a folder."""
    two = saved(tmp_path / "b.safetensors")
    assert weights.check_weights(tmp_path) == [two]
    saved(tmp_path / "c.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "b.safetensors"}}))
    assert weights.check_weights(tmp_path) == [two]
    assert weights.beside_weights(tmp_path, "auto") == {"c.safetensors"}
    one = saved(tmp_path / "model.safetensors")
    assert weights.check_weights(tmp_path) == [one]
    hidden = weights.beside_weights(tmp_path, "auto")
    assert hidden == {"b.safetensors", "c.safetensors", "model.safetensors.index.json"}
    view = weights.overlay(tmp_path, {}, hidden)
    assert [file.name for file in view.iterdir()] == ["model.safetensors"]
    assert not weights.beside_weights(view, "auto")


def test_a_corrected_copy_is_the_same_folder_at_every_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is damaged, or not to be trusted; what is to be seen in it is there in any case."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / "model"
    folder.mkdir()
    file = saved(folder / "model.safetensors")

    def copied(dimensions: int = 4) -> Path:
        view = weights.overlay(folder, {"config.json": {"hidden_size": dimensions}})
        assert json.loads((view / "config.json").read_text()) == {"hidden_size": dimensions}
        assert (view / file.name).readlink() == file
        return view

    view = copied()
    assert copied() == view
    assert copied(5) != view
    assert len(list(tmp_path.iterdir())) == 3  # nothing is left of the second start's
    (view / file.name).unlink()
    assert copied() != view
    view.rename(tmp_path / "elsewhere")
    view.symlink_to(tmp_path / "elsewhere")
    assert copied() != view


@pytest.mark.parametrize("load_format", ["hf", "safetensors", "fastsafetensors", "instanttensor", "runai_streamer"])
def test_no_loader_of_safetensors_sees_others_beside_them(tmp_path: Path, load_format: str) -> None:
    """Those that read all of a folder would load them over the model; what ranks have saved is left alone."""
    for name in ("a", "b"):
        saved(tmp_path / f"{name}.safetensors")
    assert not weights.beside_weights(tmp_path, load_format)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "b.safetensors"}}))
    assert weights.beside_weights(tmp_path, load_format) == {"a.safetensors"}
    saved(tmp_path / "model.safetensors")
    assert len(weights.beside_weights(tmp_path, load_format)) == 3
    assert not weights.beside_weights(tmp_path, "sharded_state")


def test_a_shard_that_is_missing_without_an_index_is_noticed(tmp_path: Path) -> None:
    """By the numbers in the names of the others."""
    for number in (1, 3):
        saved(tmp_path / f"model-0000{number}-of-00003.safetensors")
    with pytest.raises(StartError, match="number 2 of 3 are missing"):
        weights.check_weights(tmp_path)
    saved(tmp_path / "model-00002-of-00003.safetensors")
    assert len(weights.check_weights(tmp_path)) == 3


@pytest.mark.parametrize("size", [0, 5, 50, 1000, 40_000])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, size: int) -> None:
    """Wherever the cut is, before the engine starts."""
    file = saved(tmp_path / "model.safetensors")
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(StartError, match="cut off or not a safetensors file"):
        weights.check_weights(tmp_path)


@pytest.mark.parametrize("content", [b"not safetensors at all", b"\xff" * 100, b"<html>404</html>" * 10, _ENDLESS])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    """A saved error page, say."""
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(StartError, match="cut off or not a safetensors file"):
        weights.check_weights(tmp_path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    """None at all, or a shard."""
    with pytest.raises(StartError, match="has no weights"):
        weights.check_weights(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "a.safetensors"}}))
    with pytest.raises(StartError, match=r"a\.safetensors is missing"):
        weights.check_weights(tmp_path)
    for content in ("{}", "[" * 100_000):
        (tmp_path / "model.safetensors.index.json").write_text(content)
        with pytest.raises(StartError, match="is broken"):
            weights.check_weights(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    """The index belongs to other shards: vLLM would fail late, or not at all."""
    saved(tmp_path / "a.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors", "v": "a.safetensors"}}))
    with pytest.raises(StartError, match=r"a\.safetensors has no v, though the index names it there"):
        weights.check_weights(tmp_path)


@pytest.mark.parametrize("name", ["../other/x.safetensors", "/other/x.safetensors", "a/../../x.safetensors"])
def test_an_index_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    """A downloaded index must not choose which of this machine's files are read."""
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(StartError, match="leads out of the model's folder"):
        weights.check_weights(tmp_path)


def test_links_may_lead_anywhere(tmp_path: Path) -> None:
    """A Hugging Face cache's snapshots are links to `../../blobs`."""
    (tmp_path / "blobs").mkdir()
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    saved(tmp_path / "blobs" / "abc")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    assert weights.check_weights(snapshot) == [snapshot / "model.safetensors"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "other.bin", "model.pt"])
def test_pickled_weights_only_where_they_are_allowed(tmp_path: Path, name: str) -> None:
    """By whatever name vLLM would find them; beside safetensors it does not look."""
    (tmp_path / name).write_bytes(b"pickled")
    with pytest.raises(StartError, match=r"holds pickled weights.*EMBED_ALLOW_PICKLED_WEIGHTS=true"):
        weights.check_weights(tmp_path)
    assert weights.check_weights(tmp_path, allow_pickled=True) == [tmp_path / name]
    one = saved(tmp_path / "model.safetensors")
    assert weights.check_weights(tmp_path) == [one]


def test_a_trainer_s_leftovers_are_no_weights(tmp_path: Path) -> None:
    """They are pickled too, and never loaded."""
    (tmp_path / "training_args.bin").write_bytes(b"pickled")
    with pytest.raises(StartError, match="has no weights"):
        weights.check_weights(tmp_path, allow_pickled=True)


@pytest.mark.parametrize("load_format", ["pt", "npcache"])
def test_loaders_of_pickled_weights_are_refused(load_format: str) -> None:
    """They would not look at safetensors beside them."""
    with pytest.raises(StartError, match="reads pickled weights"):
        trust.check_load_format(load_format)
    trust.check_load_format("auto")


@pytest.mark.parametrize("model_path", ["/mnt/models/bge", "s3://bucket/bge/"])
def test_a_streaming_loader_that_is_not_installed_is_refused(model_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read, with the packages to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StartError, match="pip install runai-model-streamer"):
        locate(model_path, "runai_streamer")


def test_an_access_point_s_arn_cannot_be_streamed_from() -> None:
    """The loader takes what is before the first slash for the bucket; refused before anything is read."""
    pytest.importorskip("runai_model_streamer_s3")
    with pytest.raises(StartError, match=r"takes no ARN as bucket .* write the access point's alias, or leave"):
        locate("s3://arn:aws:s3:eu-central-1:123456789012:accesspoint/models/bge", "runai_streamer")
