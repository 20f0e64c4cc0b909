"""Every answer has an id, and every line that belongs to a request has the same."""

from __future__ import annotations

import socket

import httpx
import pytest

from tests.server import Server


def answer(server: Server, data: bytes) -> httpx.Headers:
    """Send *data* as it is and return the headers of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(data)
        lines = connection.makefile("rb").read().partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return httpx.Headers(dict(line.decode().split(": ", 1) for line in lines))


def test_answers_and_lines_have_the_same_id(minilm: Server) -> None:
    """The client's own where it sent one, whether embedded, refused or not found."""
    for path, body, status in (
        ("/v1/embeddings", {"input": "a"}, 200),
        ("/v1/embeddings", {"input": 1.5}, 400),
        ("/v1/nothing", {}, 404),
    ):
        request_id = f"mine-{status}"
        headers = {"Authorization": "Bearer test-key", "X-Request-Id": request_id}
        response = httpx.post(minilm.url + path, json=body, headers=headers)
        assert (response.status_code, response.headers["x-request-id"]) == (status, request_id)
        (line,) = [line for line in minilm.events("request") if line["request_id"] == request_id]
        assert line["status"] == status


@pytest.mark.parametrize(
    ("data", "status", "error"),
    [
        (b"my-secret garbage\r\n\r\n", 400, "invalid_request_error"),
        (b"GET / HTTP/1.1\r\nA: my-secret" + b"x" * 9000 + b"\r\n\r\n", 431, "request_too_large"),
    ],
)
def test_what_never_reaches_the_application_has_an_id_too(minilm: Server, data: bytes, status: int, error: str) -> None:
    """In the answer, in a line, and it is counted by its reason; the line quotes nothing."""
    request_id = answer(minilm, data)["x-request-id"]
    (line,) = [line for line in minilm.events("refused") if line["request_id"] == request_id]
    assert (line["status"], line["error"]) == (status, error)
    metrics = httpx.get(f"{minilm.url}/metrics").text
    assert f'embed_requests_total{{route="unknown",status="{status}"}}' in metrics
    assert "my-secret" not in minilm.log()
