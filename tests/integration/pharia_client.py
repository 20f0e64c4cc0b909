"""Aleph Alpha's client as the tests use it, and the server that the document's config.toml becomes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from aleph_alpha_client import (
    AsyncClient,
    BatchSemanticEmbeddingRequest,
    Client,
    Prompt,
    SemanticEmbeddingRequest,
    SemanticRepresentation,
)

from handler.env_formats import write_environment
from handler.toml_converter import convert
from tests.server import Server, free_port

MODEL = "qwen3-embedding-8b"  # the name in the document's config.toml; the folder is a tiny one
MINILM = "all-MiniLM-L6-v2"
TEXT = "Where is the Eiffel Tower?"
TOKEN = "test-key"  # noqa: S105 - a key of this test
EXAMPLE = Path(__file__).parents[1] / "config.toml"
SYMMETRIC, QUERY, DOCUMENT = (
    SemanticRepresentation.Symmetric,
    SemanticRepresentation.Query,
    SemanticRepresentation.Document,
)


def converted_example(folder: Path) -> dict[str, str]:
    """Convert the document's own config.toml, changed only where a tiny model on one machine needs it."""
    text = EXAMPLE.read_text()
    for old, new in [
        ("/path/to/weights/Qwen/Qwen3-Embedding-8B", str(folder)),
        ("max_model_len = 2048", "max_model_len = 128"),
        ("metrics_port = 4000", f"metrics_port = {free_port()}"),
    ]:
        assert old in text
        text = text.replace(old, new)
    written = write_environment(convert(text, engine_arguments=None), "env")
    return dict(line.split("=", 1) for line in shlex.split(written, comments=True))


def sync(server: Server, path: str = "", **options: Any) -> Client:
    """Build the client as its users do, without its minute of retries."""
    return Client(**{"token": TOKEN, "host": server.url + path, "total_retries": 0, **options})


async def call_async(server: Server, method: str, *arguments: Any, **options: Any) -> Any:
    """Call one method of the asynchronous client."""
    async with AsyncClient(token=TOKEN, host=f"{server.url}/v1", total_retries=0) as client:
        return await getattr(client, method)(*arguments, **options)


def semantic(prompt: Any = TEXT, representation: SemanticRepresentation = SYMMETRIC, **more: Any) -> Any:
    """Build a semantic request."""
    prompt = Prompt.from_text(prompt) if isinstance(prompt, str) else Prompt(prompt)
    return SemanticEmbeddingRequest(prompt=prompt, representation=representation, **more)


def batch(texts: list[str], representation: SemanticRepresentation = SYMMETRIC, **more: Any) -> Any:
    """Build a batch request."""
    prompts = [Prompt.from_text(text) for text in texts]
    return BatchSemanticEmbeddingRequest(prompts=prompts, representation=representation, **more)


def post(server: Server, path: str, body: dict[str, Any]) -> httpx.Response:
    """POST *body* without a client."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.post(f"{server.url}/v1/{path}", json=body, headers=headers, timeout=60)


def close(vector: Any, expected: np.ndarray) -> bool:
    """Compare one vector or several, length and direction."""
    got = np.atleast_2d(np.array(vector, dtype=np.float32))
    expected = np.atleast_2d(expected)
    cosines = np.sum(got * expected, axis=1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    return bool((cosines >= 0.9999).all()) and np.allclose(got, expected, atol=2e-3 * np.abs(expected).max())
