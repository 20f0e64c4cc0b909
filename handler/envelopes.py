"""The form of an error: OpenAI's, or PhariaInference's on the paths that its clients ask for."""

from __future__ import annotations

from typing import Any

from handler.errors import ServiceError

# First step of a path that PhariaInference's clients ask for, also of services that are not here.
_PATHS = {
    *("semantic_embed", "batch_semantic_embed", "instructable_embed", "tokenize", "detokenize"),
    *("models_available", "model-settings", "version"),
    *("embed", "complete", "evaluate", "explain"),
}


def speaks_pharia(path: str) -> bool:
    """Whether clients of *path* expect PhariaInference's errors."""
    steps = path.strip("/").removeprefix("v1/").split("/")
    return steps[0] in _PATHS or (steps[0] == "models" and steps[2:] != [] and steps[-1] == "tokenizer")


def status_of(error: ServiceError | type[ServiceError], *, pharia: bool) -> int:
    """Return the status that *error* is answered with."""
    return int((pharia and error.pharia_status) or error.status)


def envelope(error: ServiceError, *, pharia: bool) -> dict[str, Any]:
    """Write *error* as the content of its answer."""
    if pharia:
        return {"error": error.message, "code": error.pharia_code}
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
