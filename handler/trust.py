"""A model's folder is data: what was downloaded runs no code here, and does not choose what is read outside of it.

Only names are looked at. A link that an operator has put into the folder may lead anywhere: a Hugging Face cache is
made of links to `../../blobs`.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from handler.errors import StartError

_PICKLE_LOADERS = ("pt", "npcache")  # vLLM's loaders that read nothing else
# What Transformers and vLLM say of a folder that has Python of its own and needs it.
_CODE_WORDS = ("trust_remote_code", "remote code", "custom code")


def check_inside(name: str, source: Path | str) -> None:
    """Refuse *name*, as it stands in the JSON file or is an object's key in *source*, where it leads out of the folder.

    Raises:
        StartError: it is absolute or has a `..` in it.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        message = f"{source} names {name!r}, which leads out of the model's folder; not served"
        raise StartError(message)


def pickled(file: Path | str) -> StartError:
    """Say why *file* is not loaded, and what to do."""
    return StartError(
        f"{file} holds pickled weights, a format that can run code; convert them to safetensors, or set "
        "EMBED_ALLOW_PICKLED_WEIGHTS=true if you trust them"
    )


def check_load_format(load_format: str) -> None:
    """Refuse a loader of pickled weights, where those are not allowed.

    Raises:
        StartError: it is one.
    """
    if load_format in _PICKLE_LOADERS:
        message = (
            f"the load format {load_format} reads pickled weights, which can run code; leave EMBED_LOAD_FORMAT at "
            "auto, or set EMBED_ALLOW_PICKLED_WEIGHTS=true if you trust them"
        )
        raise StartError(message)


def needs_code(folder: Path | str, exc: BaseException) -> StartError | None:
    """Say that *folder* needs Python code of its own, if that is what *exc* means."""
    said = str(exc).lower()
    if not any(words in said for words in _CODE_WORDS):
        return None
    return StartError(
        f"{folder} needs Python code of its own (auto_map), which is not run; if you have read it and trust it, set "
        'EMBED_ENGINE_ARGS={"trust_remote_code": true}'
    )
