"""Tiny models with random weights, saved as real model folders are: each shows one thing that published models do.

Everything comes from fixed seeds, so a folder is the same wherever it is built; nothing is downloaded.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import transformers as hf
from safetensors.torch import save_file

from tests.backbones import Json, write_json
from tests.networks import own_network
from tests.recipes import BROKEN, PUBLISHED, RECIPES, Recipe

NAMES: tuple[str, ...] = tuple(name for name in RECIPES if name not in {"qwen3-embedding-8b", *PUBLISHED})
REFUSED: dict[str, str] = {name: word for name, (_, word) in BROKEN.items()}


def build(name: str, parent: Path) -> Path:
    """Return *parent*/*name*, one of ``NAMES``, building it if it is not there."""
    return _build(RECIPES[name], parent / name)


def edited(folders: Path, tmp_path: Path, name: str, **files: Any) -> Path:
    """Copy a model and change JSON files in it (underscores stand for the dots and dashes); None removes one."""
    folder = tmp_path / "model"
    shutil.copytree(build(name, folders), folder)
    for file, change in files.items():
        path = folder / f"{file}.json"
        if change is None:
            path.unlink()
        else:
            path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return folder


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
    config = recipe.backbone(folder)
    own = own_network(config)
    model: Any = own or cast("Any", hf.AutoModel).from_config(config)  # the latter has no types
    values = _random({name: tuple(value.shape) for name, value in model.named_parameters()})
    if own:
        save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(folder)
    else:
        model.load_state_dict(values, strict=False)  # not strict: position_ids and the like stay
        model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", written | {"architectures": [type(model).__name__]} | dict(recipe.config))


def _write_modules(recipe: Recipe, folder: Path) -> None:
    entries: list[Json] = []
    for index, module in enumerate(recipe.modules):
        path = f"{index}_{module.type.rsplit('.', 1)[1]}" if index else ""  # the transformer's is the root
        entries.append({"idx": index, "name": str(index), "path": path, "type": module.type})
        write_json(folder / path / "config.json", module.config)
        if module.weights:
            save_file(_random(module.weights), folder / path / "model.safetensors")
    write_json(folder / "modules.json", entries)
    write_json(folder / "sentence_bert_config.json", recipe.sentence_bert)
    write_json(folder / "config_sentence_transformers.json", recipe.prompts)


def _random(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Draw every tensor, biases too: with a usual start (small, biases 0) all texts come out alike."""
    generator = torch.Generator().manual_seed(0)
    drawn = {name: 0.25 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    norms = {name for name in drawn if name.endswith(".weight") and "norm" in name.lower()}
    return {name: value + (name in norms) for name, value in drawn.items()}
