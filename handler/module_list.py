"""The sentence-transformers modules of a model, as its modules.json lists them. File format: https://sbert.net."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from handler.errors import StartError
from handler.trust import check_inside

_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")


def read_json(file: Path) -> Any:
    """Read a *file* of a model's folder.

    Raises:
        StartError: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except OSError as exc:
        message = f"{file} cannot be read: {exc.strerror}"
        raise StartError(message) from exc
    except (ValueError, RecursionError) as exc:
        message = f"{file} is not valid JSON: {exc}; download the model again"
        raise StartError(message) from exc


def read_modules(path: Path) -> list[tuple[str, str]]:
    """Return (kind, folder) of each module of the model in the folder *path*, in order; empty where it has no list.

    Raises:
        StartError: the list cannot be read, leads out of the folder, or names what vLLM computes otherwise.
    """
    file = path / "modules.json"
    if not file.is_file():
        return []
    try:
        modules = [(str(module["type"]), str(module["path"])) for module in read_json(file)]
    except (TypeError, KeyError) as exc:
        message = f"{file} is not a list of modules with type and path"
        raise StartError(message) from exc
    kinds = [name.rsplit(".", 1)[-1] for name, _ in modules]
    for (name, folder), kind in zip(modules, kinds, strict=True):
        check_inside(folder, file)
        if kind == "Transformer" and folder.strip("./"):
            message = (
                f"{file}: the Transformer lies in {folder}, where vLLM does not look; "
                "move its files to the root of the model's folder and leave its path empty"
            )
            raise StartError(message)
        if kind not in _ORDER or not name.startswith(("sentence_transformers.", "custom_st.Transformer")):
            message = f"{file}: module {name} is not one that vLLM computes ({', '.join(_ORDER)} are); not served"
            raise StartError(message)
    if kinds != sorted(kinds, key=_ORDER.index):
        message = f"{file}: the order {', '.join(kinds)} is not what vLLM computes ({', '.join(_ORDER)}); not served"
        raise StartError(message)
    return [(kind, folder) for kind, (_, folder) in zip(kinds, modules, strict=True)]
