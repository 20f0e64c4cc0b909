"""Keys while the server runs: exchanged without a restart, and to be found nowhere."""

from __future__ import annotations

import json
import socket
from typing import Any

import boto3
import httpx
import pytest

from handler.settings import Settings
from tests.forked import ForkedServer
from tests.s3_server import CREDENTIALS, moto_server
from tests.server import Server, wait_for

OLD, NEW, FIXED, WRONG = (f"{name}-0123456789abcdef" for name in ("oldkey", "newkey", "fixedkey", "wrongkey"))
POSTED = ("/v1/embeddings", "/invocations", "/semantic_embed", "/nowhere")
GOT = ("/health", "/ready", "/ping", "/metrics", "/v1/models", "/models/m/tokenizer", "/v1/embeddings")


def test_a_key_is_rotated_without_a_restart() -> None:
    """The old one until the switch, the new one afterwards; without Secrets Manager the last ones stay valid."""
    session = boto3.Session("x", "x", region_name="us-east-1")
    with moto_server() as url:
        client = session.client("secretsmanager", endpoint_url=url)
        client.create_secret(Name="keys", SecretString=json.dumps([OLD]))
        server = ForkedServer(
            EMBED_API_KEYS_SECRET_ID="keys",  # noqa: S106 - the name of a secret
            EMBED_API_KEYS=FIXED,
            EMBED_API_KEYS_REFRESH_S="0.5",
            EMBED_HTTP_REQUEST_RETRIES="1",
            AWS_ENDPOINT_URL=url,
            LOG_LEVEL="DEBUG",
            **CREDENTIALS,
        )

        def answers() -> list[int]:
            return [server.embed(key=key, input="a").status_code for key in (OLD, NEW, FIXED)]

        try:
            server.wait_ready()
            assert answers() == [200, 401, 200]
            client.put_secret_value(SecretId="keys", SecretString=json.dumps([OLD, NEW]))
            wait_for(lambda: answers() == [200, 200, 200], 10)
            client.put_secret_value(SecretId="keys", SecretString=json.dumps([NEW]))
            wait_for(lambda: answers() == [401, 200, 200], 10)
        except BaseException:
            server.stop()
            raise
    with server:  # moto is gone
        wait_for(lambda: server.events("keys_not_refreshed"), 30)
        failed_reads = len(server.events("keys_not_refreshed"))
        wait_for(lambda: answers() == [401, 200, 200], 1)
        assert server.status("/ready") == 200
        assert failed_reads == len(server.events("keys_not_refreshed")) == 1
        assert len(server.events("keys_changed")) == 2
        assert [key for key in (OLD, NEW, FIXED) if key in server.log()] == []


def asked_in_many_ways(url: str) -> list[httpx.Response]:
    """Send keys, right and wrong ones, wherever a client may put them, in headers of any form."""
    body = {"input": "a", "model": "all-MiniLM-L6-v2"}
    headers: list[dict[str, Any]] = [
        *({"Authorization": f"Bearer {key}"} for key in (FIXED, WRONG)),
        {"Authorization": WRONG},
        {"Authorization": f"Basic {WRONG}"},
        {"Authorization": f"Bearer {FIXED} {WRONG}"},
        {"Authorization": f"Bearer\t{WRONG}"},
        {"Authorization": f"Bearer {WRONG}\xff".encode("latin-1")},
        {"Authorization": f"Bearer {WRONG}" + "x" * 9000},
        {"X-Api-Key": WRONG},
        {"Cookie": f"key={WRONG}"},
        {},
    ]
    answers = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for header in headers:
            answers += [client.post(path, json=body, headers=header) for path in POSTED]
            answers += [client.get(path, headers=header) for path in GOT]
        right = {"Authorization": f"Bearer {FIXED}"}
        answers += [
            client.post("/v1/embeddings", params={"api_key": WRONG}, json=body),
            client.get(f"/v1/models/{WRONG}"),
            client.get(f"/{WRONG}"),
            client.post("/v1/embeddings", json=body | {"user": WRONG}, headers=right),
            client.post("/v1/embeddings", json=body | {"model": WRONG}, headers=right),
            client.post("/v1/embeddings", json=body | {"dimensions": WRONG}, headers=right),
            client.post("/v1/embeddings", json=body | {WRONG: 1}, headers=right),
            client.post("/v1/embeddings", content=WRONG, headers=right),
        ]
    return answers


def malformed(port: int) -> bytes:
    """Send a head that is no HTTP, with a key in it; return all that comes back."""
    said = b""
    for head in (f"POST /v1/embeddings HTTP/1.1\r\nAuthorization Bearer {WRONG}\r\n\r\n", f"{WRONG}\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(head.encode())
            while part := connection.recv(65536):
                said += part
    return said


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_key_is_ever_shown(log_format: str) -> None:
    """Neither valid nor wrong ones: not in any line of the log, not in any answer, metrics and health included."""
    with Server(EMBED_API_KEYS=FIXED, LOG_LEVEL="DEBUG", EMBED_LOG_FORMAT=log_format) as server:
        wait_for(lambda: server.status("/health") == 200)
        answers = asked_in_many_ways(server.url)  # while it loads
        server.wait_ready()
        answers += asked_in_many_ways(server.url)
        said = malformed(server.port)
        shown = [server.log(), said.decode("latin-1")]
        shown += [f"{answer.status_code} {answer.headers} {answer.text}" for answer in answers]
    assert {200, 400, 401, 404, 431, 503} <= {answer.status_code for answer in answers}
    assert [
        answer.url for answer in answers if answer.status_code == 401 and answer.headers["www-authenticate"] != "Bearer"
    ] == []
    for key in (FIXED, WRONG):
        assert [text for text in shown if key in text] == []


def test_settings_do_not_show_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """However they are printed or dumped, and whatever else is wrong with them."""
    monkeypatch.setenv("EMBED_API_KEYS", f"{FIXED},{OLD}")
    settings = Settings.from_environment()
    dumps = (settings.model_dump(), settings.model_dump(mode="json"), settings.model_dump_json(), vars(settings))
    shown = "".join(map(str, (settings, repr(settings), *dumps)))
    assert [key for key in (FIXED, OLD) if key in shown] == []


def test_a_mistyped_variable_does_not_show_its_key() -> None:
    """The name is told, the value is not."""
    with Server(EMBED_API_KEY=FIXED, EMBED_API_KEYS=OLD, EMBED_MAX_INPUTS="none") as server:
        assert server.wait_exit(20) == 3
        assert "EMBED_API_KEY: no such setting" in server.log()
        assert [key for key in (FIXED, OLD) if key in server.log()] == []
