from __future__ import annotations

import json
from pathlib import Path

import pytest

from handler.errors import StartError
from handler.model_folder import read_model_folder
from tests.models import edited


def test_a_dense_module_whose_bias_is_missing(folders: Path, tmp_path: Path) -> None:
    """vLLM would add a random one; a module without one says so."""
    folder = edited(folders, tmp_path, "modernbert-dense-identity")
    assert read_model_folder(folder).dense_layers == 1
    config = folder / "2_Dense/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "bias": True}))
    with pytest.raises(StartError, match=r"2_Dense: the Dense module has no bias in model\.safetensors; download"):
        read_model_folder(folder)


def test_a_dense_module_s_pickled_weights_only_where_they_are_allowed(folders: Path, tmp_path: Path) -> None:
    """Nor beside broken ones, which vLLM would fall back from."""
    folder = edited(folders, tmp_path, "modernbert-dense")
    dense = folder / "2_Dense"
    (dense / "pytorch_model.bin").write_bytes(b"pickled")
    assert read_model_folder(folder).dense_layers == 1
    (dense / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(StartError, match="cut off or not a safetensors file"):
        read_model_folder(folder, allow_pickled=True)
    (dense / "model.safetensors").unlink()
    with pytest.raises(StartError, match=r"2_Dense/pytorch_model\.bin holds pickled weights"):
        read_model_folder(folder)
    assert read_model_folder(folder, allow_pickled=True).dense_layers == 1
