from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from aleph_alpha_client import BusyError, TokenizationRequest
from botocore.config import Config
from openai import OpenAI

from handler import s3_fetch
from tests import models
from tests.integration.pharia_client import MODEL, TEXT, TOKEN, call_async, converted_example, semantic, sync
from tests.integration.tiny_bucket import KEY, RANGE, WEIGHTS, put
from tests.s3_server import BUCKET, CREDENTIALS, Proxy, moto_server
from tests.server import Server


@pytest.fixture(scope="session")
def minilm() -> Iterator[Server]:
    """The packaged default model, with no settings but keys and an alias, which is named twice and listed once."""
    aliases = "alias-of-minilm,all-MiniLM-L6-v2,alias-of-minilm"
    with Server(EMBED_API_KEYS="test-key,second-key", EMBED_MODEL_ALIASES=aliases) as server:
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


@pytest.fixture(scope="session")
def upstream() -> Iterator[str]:
    """moto, in a process of its own."""
    with moto_server() as url:
        yield url


@pytest.fixture(scope="session")
def s3(upstream: str) -> Any:
    """Talk to moto directly, to put objects there."""
    session = boto3.Session("x", "x", region_name="us-east-1")
    config = Config(request_checksum_calculation="when_required")  # the tests choose which checksum an object has
    client = session.client("s3", endpoint_url=upstream, config=config)
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def proxy(upstream: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A fresh model in the bucket, and the way to it that can be broken."""
    put(s3, KEY, WEIGHTS)
    put(s3, "org/tiny/config.json", b"{}")
    put(s3, "org/tiny/README.md", b"# a model card")
    proxy = Proxy(upstream)
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": proxy.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_fetch, "_RANGE_BYTES", RANGE)
    monkeypatch.setattr(s3_fetch, "_LONGEST_PAUSE_S", 0.01)
    yield proxy
    proxy.close()
