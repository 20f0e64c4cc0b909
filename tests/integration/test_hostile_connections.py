from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest

from tests.bench import one_layer
from tests.forked import ForkedServer
from tests.integration.raw import head, raw, read_answers, request
from tests.server import Server

Record = Callable[[str, object], None]
SLOW_READERS = 150  # more than twice the threads that a server of 64 slots has
SLOW_SENDERS = 500


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A tiny model: nearly all of the time is the server's own."""
    with ForkedServer(EMBED_MODEL_PATH=str(one_layer.build(tmp_path_factory.mktemp("model")))) as server:
        yield server.wait_ready()


def worst_waits(server: Server) -> tuple[float, float]:
    """The longest of twenty waits for /health and for a vector, in seconds, on one connection."""
    waits: dict[str, list[float]] = {"health": [], "embed": []}
    with httpx.Client(timeout=30, headers={"Authorization": "Bearer test-key"}) as client:
        client.get(f"{server.url}/health")
        for _ in range(20):
            begin = time.monotonic()
            assert client.get(f"{server.url}/health").status_code == 200
            waits["health"].append(time.monotonic() - begin)
            begin = time.monotonic()
            assert client.post(f"{server.url}/v1/embeddings", json={"input": "a"}).status_code == 200
            waits["embed"].append(time.monotonic() - begin)
    return max(waits["health"]), max(waits["embed"])


def tell(record_property: Record, what: str, seen: str, waits: tuple[float, float]) -> None:
    """Write the figures down, with what others waited meanwhile."""
    record_property("what", what)
    record_property(
        "figure", f"{seen}; meanwhile /health {1000 * waits[0]:.0f} ms, a vector {1000 * waits[1]:.0f} ms at most"
    )


def test_one_reader_that_takes_nothing(minilm: Server, record_property: Record) -> None:
    """Its answer of 2048 vectors waits for it, whole; nobody else waits."""
    texts = [f"text {index}" for index in range(2048)]
    with raw(minilm, receive_buffer=4096) as connection:
        connection.sendall(request(input=texts))
        connection.recv(1, socket.MSG_PEEK)  # the first byte has come, so the answer is being written
        waits = worst_waits(minilm)
        slots = httpx.get(f"{minilm.url}/health").json()["in_flight"]
        status, body = read_answers(connection, 1)[0]
    assert (status, slots) == (200, 0)
    assert max(waits) < 2
    assert np.array([row["embedding"] for row in json.loads(body)["data"]]).shape == (2048, 384)
    tell(
        record_property,
        "a reader that takes nothing of 2048 vectors",
        f"{len(body) / 1e6:.0f} MB, whole in the end",
        waits,
    )


def test_many_readers_that_take_nothing(quick: Server, record_property: Record) -> None:
    """More of them than there are threads; each gets its answer once it reads."""
    texts = [f"text {index}" for index in range(256)]
    readers = []
    for _ in range(SLOW_READERS):
        connection = raw(quick, receive_buffer=4096)
        connection.sendall(request(input=texts))
        readers.append(connection)
        if len(readers) % 40 == 0:  # no more than there are slots at once
            readers[-1].recv(1, socket.MSG_PEEK)
    for connection in readers:
        connection.recv(1, socket.MSG_PEEK)
    waits = worst_waits(quick)
    answers = [read_answers(connection, 1)[0] for connection in readers]
    for connection in readers:
        connection.close()
    sizes = sum(len(body) for _, body in answers)
    assert {status for status, _ in answers} == {200}
    assert {len(json.loads(body)["data"]) for _, body in answers} == {256}
    assert max(waits) < 2
    tell(record_property, f"{SLOW_READERS} such readers at once", f"{sizes / 1e6:.0f} MB of answers, all whole", waits)


def test_slow_senders(quick: Server, record_property: Record) -> None:
    """Hundreds of connections that send a byte at a time hold no slot and no thread."""
    data = head("Content-Length: 1000") + b"{" * 1000
    senders = [raw(quick) for _ in range(SLOW_SENDERS)]
    sent = 0
    end = time.monotonic() + 5
    waits: list[tuple[float, float]] = []
    while time.monotonic() < end:
        for connection in senders:
            connection.sendall(data[sent : sent + 1])
        sent += 1
        waits.append(worst_waits(quick))
    slots = httpx.get(f"{quick.url}/health").json()["in_flight"]
    threads = quick.worker().num_threads()
    for connection in senders:
        connection.close()
    worst = (max(health for health, _ in waits), max(embed for _, embed in waits))
    assert slots == 0
    assert max(worst) < 2
    tell(record_property, f"{SLOW_SENDERS} senders of one byte at a time", f"no slot taken, {threads} threads", worst)


def test_a_client_that_is_done_sending(minilm: Server) -> None:
    """Half-closed after the request: it gets its answer, and the connection ends."""
    for _ in range(20):
        with raw(minilm) as connection:
            connection.sendall(request(input="a"))
            connection.shutdown(socket.SHUT_WR)
            assert read_answers(connection, 1)[0][0] == 200
            assert connection.recv(1) == b""


def test_requests_in_one_packet(minilm: Server, record_property: Record) -> None:
    """Every one is answered, in order, each with its own vector."""
    texts = [f"text number {index}" for index in range(50)]
    rows = [row["embedding"] for row in minilm.embed(input=texts).json()["data"]]
    with raw(minilm) as connection:
        connection.sendall(b"".join(request(input=text) for text in texts))
        answers = read_answers(connection, len(texts))
    assert {status for status, _ in answers} == {200}
    cosines = [
        np.dot(json.loads(body)["data"][0]["embedding"], row) for (_, body), row in zip(answers, rows, strict=True)
    ]
    assert min(cosines) > 0.9999
    record_property("what", "50 requests in one packet")
    record_property("figure", f"50 answers in order, lowest cosine to the right vector {min(cosines):.6f}")


def test_floods_of_headers(minilm: Server, record_property: Record) -> None:
    """Refused while they come, without memory for them."""
    before = minilm.worker().memory_info().rss
    statuses = []
    for line in (b"X: y\r\n", b"X: " + b"y" * 4000 + b"\r\n", b"y"):
        with raw(minilm) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\n" + line * ((4 << 20) // len(line)))
            statuses.append(connection.recv(100)[9:12].decode())
    growth = (minilm.worker().memory_info().rss - before) / 2**20
    assert set(statuses) == {"431"}
    assert growth < 50
    record_property("what", "4 MB of headers")
    record_property("figure", f"431, {growth:.0f} MB more held")


def test_a_refusal_for_want_of_a_slot_is_whole(quick: Server) -> None:
    """From the main loop: envelope, Retry-After, the request's id, a log line, a count; the connection goes on."""
    many = request(input=["word " * 200] * 512)
    busy = [raw(quick) for _ in range(64)]
    for connection in busy:
        connection.sendall(many)
    deadline = time.monotonic() + 60
    with httpx.Client(timeout=60) as client:
        while client.get(f"{quick.url}/health").json()["in_flight"] < 64:
            assert time.monotonic() < deadline
        answers = [
            client.post(f"{quick.url}/v1/embeddings", json={"input": "a"}, headers={"X-Request-Id": f"mine-{index}"})
            for index in range(3)
        ]
        assert {answer.status_code for answer in answers} == {429}
        assert [answer.headers["x-request-id"] for answer in answers] == ["mine-0", "mine-1", "mine-2"]
        assert {answer.headers["retry-after"] for answer in answers} == {"1"}
        assert {answer.json()["error"]["code"] for answer in answers} == {"overloaded"}
        assert 'embed_rejected_total{reason="overloaded"}' in client.get(f"{quick.url}/metrics").text
    assert {event["status"] for event in quick.events("request") if event["request_id"] == "mine-1"} == {429}
    for connection in busy:
        connection.close()


def test_headers_that_a_sidecar_hands_on(minilm: Server) -> None:
    """On 127.0.0.1 gunicorn would believe them: one moves the path, two that contradict each other are refused."""
    contrary = {"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "off", "X-Forwarded-Protocol": "http"}
    for headers in ({"SCRIPT_NAME": "/v1"}, {"SCRIPT_NAME": "/elsewhere", "PATH_INFO": "/docs"}, contrary):
        response = httpx.get(f"{minilm.url}/v1/models", headers=headers)
        assert response.status_code == 200
    assert [event["route"] for event in minilm.events("request")[-3:]] == ["/v1/models"] * 3


@pytest.mark.parametrize(
    "line", ["Host: x\nContent-Length: {}", "Content-Length: 0\r\nContent-Length: {}", "Content-Length:\r\n {}"]
)
def test_no_body_is_taken_for_a_request(minilm: Server, line: str) -> None:
    """Whatever stands in the head: 400, and nothing behind it is read."""
    inner = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with raw(minilm) as connection:
        connection.sendall(head(line.format(len(inner)), path="/v1/models") + inner)
        received = b"".join(iter(lambda: connection.recv(4096), b""))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1


def test_a_body_is_asked_for_once_and_not_if_it_is_too_large(minilm: Server) -> None:
    """`Expect: 100-continue` is answered before the body comes, by one line, or by a refusal."""
    body = b'{"input": "a"}'
    with raw(minilm) as connection:
        connection.sendall(head("Expect: 100-continue", f"Content-Length: {len(body)}"))
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        ((status, _),) = read_answers(connection, 1)
        assert status == 200
        connection.sendall(head("Expect: 100-continue", "Content-Length: 99999999"))
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_doubled_slash_leads_nowhere(minilm: Server) -> None:
    """404 in the envelope; a redirect would go to whatever host the client has named."""
    response = httpx.post(f"{minilm.url}/v1//embeddings", json={"input": "a"}, headers={"Host": "elsewhere"})
    assert (response.status_code, response.json()["error"]["type"]) == (404, "invalid_request_error")
