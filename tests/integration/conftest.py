from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aleph_alpha_client import BusyError, TokenizationRequest
from openai import OpenAI

from tests import models
from tests.integration.pharia_client import MODEL, TEXT, TOKEN, call_async, converted_example, semantic, sync
from tests.server import Server


@pytest.fixture(scope="session")
def minilm() -> Iterator[Server]:
    """The packaged default model, with no setting but keys."""
    with Server(EMBED_API_KEYS="test-key,second-key", EMBED_MODEL_ALIASES="alias-of-minilm") as server:
        yield server.wait_ready()


@pytest.fixture
def client(minilm: Server) -> Iterator[OpenAI]:
    """OpenAI's own client."""
    with OpenAI(base_url=f"{minilm.url}/v1", api_key="test-key", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def qwen3_folder(folders: Path) -> Path:
    """A tiny Qwen3, wide enough to be cut to PhariaInference's 128."""
    return models.build(MODEL, folders)


@pytest.fixture(scope="session")
def qwen3(qwen3_folder: Path) -> Iterator[Server]:
    """The document's config.toml, converted; a server that still loads is busy for Aleph Alpha's clients."""
    with Server(EMBED_API_KEYS=TOKEN, **converted_example(qwen3_folder)) as server:
        while server.status("/ping") is None:
            assert server.process.poll() is None, server.log()
        with pytest.raises(BusyError, match="still loading"):
            sync(server).semantic_embed(semantic(), model=MODEL)
        with pytest.raises(BusyError, match="UNAVAILABLE"):
            asyncio.run(call_async(server, "tokenize", TokenizationRequest(TEXT, tokens=True, token_ids=True), MODEL))
        yield server.wait_ready()


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Call a method of either of Aleph Alpha's clients."""

    def call(server: Server, method: str, *arguments: Any, **options: Any) -> Any:
        if request.param == "sync":
            return getattr(sync(server), method)(*arguments, **options)
        return asyncio.run(call_async(server, method, *arguments, **options))

    return call
