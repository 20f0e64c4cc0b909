"""What operators connect: keys in Secrets Manager, a metrics port, TCP probes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from tests.forked import ForkedServer
from tests.server import Server, accepts, free_port, wait_for

AWS = {"AWS_DEFAULT_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}


@pytest.fixture
def secrets_manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run moto's server, which stands in for AWS."""
    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    yield f"http://127.0.0.1:{port}"
    server.stop()


def test_keys_come_from_secrets_manager(secrets_manager: str) -> None:
    """Shut until they are read, then each of them opens."""
    client = boto3.client("secretsmanager", endpoint_url=secrets_manager)
    client.create_secret(Name="embed-keys", SecretString='["first", "second"]')
    settings = {"EMBED_API_KEYS_SECRET_ID": "embed-keys", "AWS_ENDPOINT_URL": secrets_manager, **AWS}
    with ForkedServer(**settings) as server:
        server.wait_ready()
        assert [server.embed(key=key, input="a").status_code for key in ("first", "second", "third")] == [200, 200, 401]
        assert "first" not in server.log()


def test_a_secret_that_cannot_be_read_ends_the_start(secrets_manager: str) -> None:
    """With the reason, and never open instead."""
    settings = {"EMBED_API_KEYS_SECRET_ID": "none", "AWS_ENDPOINT_URL": secrets_manager, **AWS}
    with Server(**settings) as server:
        assert server.wait_exit(60) == 3
        assert "ResourceNotFoundException" in server.events("start_failed")[0]["reason"]


def test_metrics_and_tcp_probes_have_their_ports() -> None:
    """Metrics are there from the first second, probes accept only while the model is ready."""
    metrics, first, second = free_port(), free_port(), free_port()
    named = {"EMBED_TAGS": '["blue"]', "EMBED_SERVICE_NAME": "search", "EMBED_SERVICE_ROLE": "indexer"}
    with ForkedServer(EMBED_METRICS_PORT=str(metrics), EMBED_TCP_PROBES=f"{first},{second}", **named) as server:
        wait_for(lambda: server.status("/health") == 200)
        wait_for(lambda: accepts(metrics))
        assert not accepts(first)
        assert "embed_ready 0.0" in httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
        server.wait_ready()
        assert server.embed(input=["a", "b"]).status_code == 200
        assert server.embed(input=[]).status_code == 400
        wait_for(lambda: accepts(first) and accepts(second), 2)
        for url in (f"http://127.0.0.1:{metrics}/metrics", f"{server.url}/metrics"):
            scraped = httpx.get(url).text
            assert "embed_ready 1.0" in scraped
            assert "embed_inputs_total 2.0" in scraped
            assert 'embed_requests_total{route="/v1/embeddings",status="400"} 1.0' in scraped
            assert 'role="indexer",service="search",tags="blue"' in scraped
            assert 'embed_start_phase_seconds{phase="imports"}' in scraped


@pytest.mark.parametrize("variable", ["EMBED_METRICS_PORT", "EMBED_TCP_PROBES"])
def test_a_second_port_that_is_taken_ends_the_start(variable: str) -> None:
    """At once, before the model is loaded."""
    with socket.create_server(("0.0.0.0", 0)) as taken, Server(**{variable: str(taken.getsockname()[1])}) as server:  # noqa: S104
        assert server.wait_exit(20) == 3
        assert server.events("start_failed")[0]["reason"].startswith(f"{variable}: port")


def test_every_log_line_tells_who_writes_it() -> None:
    """Service, role and tags are fields of every line of a start, third parties' included, and of requests."""
    with Server(EMBED_TAGS='["blue"]', EMBED_SERVICE_NAME="search", EMBED_SERVICE_ROLE="indexer") as server:
        wait_for(lambda: server.status("/health") == 200)
        assert server.embed(input="a").status_code == 503
        server.wait_ready()
        lines = [json.loads(line) for line in server.log().splitlines()]
    assert {"loading", "request", "ready"} <= {line["event"] for line in lines}
    assert [(line["service"], line["role"], line["tags"]) for line in lines] == [("search", "indexer", ["blue"])] * len(
        lines
    )
