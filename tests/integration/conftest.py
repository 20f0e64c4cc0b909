from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

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
