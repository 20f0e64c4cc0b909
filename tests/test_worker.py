from __future__ import annotations

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
import psutil
import pytest

from tests.server import Server, wait_for
from tests.worker_app import LARGE, LIMIT_BYTES
from tests.worker_client import answer, connect, head, wait_alive


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The worker with a small application, four threads."""
    with Server(module="tests.worker_app") as server:
        wait_alive(server)
        yield server


def test_a_client_that_has_said_all_it_will_say(server: Server) -> None:
    """Half-closed after the request: the answer still comes."""
    for data in (head(b"Content-Length: 3") + b"abc", head(b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n"):
        connection = connect(server, data)
        connection.shutdown(socket.SHUT_WR)
        assert answer(connection).endswith(b"\r\n\r\n3")


def test_a_malformed_chunk_is_the_clients_mistake(server: Server) -> None:
    """400 in the envelope, and a body that grows over the limit is 413, both before any thread."""
    big = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
    for body, status in ((b"5\r\nabc\r\n0\r\n\r\n", 400), (b"zz\r\n", 400), (big * 6, 413)):
        line, _, told = answer(connect(server, head(b"Transfer-Encoding: chunked") + body)).partition(b"\r\n\r\n")
        assert int(line.split()[1]) == status
        assert set(json.loads(told)["error"]) == {"message", "type", "param", "code"}


def test_hundreds_of_requests_in_one_packet(server: Server) -> None:
    """Each is answered, in order, on one connection."""
    sizes = [index % 5 for index in range(500)]
    connection = connect(server, b"".join(head(b"Content-Length: %d" % size) + b"x" * size for size in sizes))
    bodies = [part.partition(b"\r\n\r\n")[2] for part in answer(connection).split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [str(size).encode() for size in sizes]


def test_a_request_in_many_pieces(server: Server) -> None:
    """Bytes are put together whatever their boundaries."""
    connection = connect(server)
    for byte in head(b"content-length: 5") + b"12345":
        connection.sendall(bytes([byte]))
        time.sleep(0.002)
    assert answer(connection).endswith(b"\r\n\r\n5")


def test_two_requests_at_once_on_one_connection(server: Server) -> None:
    """Pipelining: the second is already there when the first is handed over."""
    request = head(b"Content-Length: 3") + b"abc"
    connection = connect(server, request + request)
    assert answer(connection).count(b"HTTP/1.1 200") == 2


def test_a_kept_alive_connection(server: Server) -> None:
    """Many requests on one connection, one after the other."""
    with httpx.Client() as client:
        for size in (0, 1, 100_000, LIMIT_BYTES, 7):
            assert client.post(server.url, content=b"x" * size).text == str(size)


def test_each_answer_has_its_own_date(server: Server) -> None:
    """It is written once a second, not once for all."""
    dates = []
    for _ in range(2):
        now = datetime.now(UTC).replace(microsecond=0)
        dates.append(parsedate_to_datetime(httpx.get(f"{server.url}/health").headers["date"]))
        assert now <= dates[-1] <= now + timedelta(seconds=2)
        time.sleep(1.1)
    assert dates[0] < dates[1]


def test_a_chunked_body(server: Server) -> None:
    """Without a Content-Length the last chunk tells the end."""
    assert httpx.post(server.url, content=iter([b"a" * 1000, b"b" * 500])).text == "1500"


def test_a_client_that_waits_for_continue_gets_it(server: Server) -> None:
    """Curl does for bodies over a megabyte."""
    connection = connect(server, head(b"Content-Length: 3", b"Expect: 100-continue"))
    assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue")
    connection.sendall(b"abc")
    assert answer(connection).endswith(b"\r\n\r\n3")


def test_a_body_over_the_limit_is_refused_by_its_length(server: Server) -> None:
    """Nobody has to send 100 MB to learn that it is too much."""
    connection = connect(server, head(b"Content-Length: 104857600") + b"x" * 1000)
    assert answer(connection).startswith(b"HTTP/1.1 413")


def test_what_is_not_http_is_refused(server: Server) -> None:
    """Garbage and endless headers get an answer in the envelope, not a hang, and the log quotes nothing of them."""
    secret = b"Authorization: Bearer my-secret"
    for data, statuses in [
        (b"\x16\x03\x01 my-secret garbage\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\n" + secret + b"\x01\r\n\r\n", {400}),
        (b"GET / HTTP/1.1\r\n" + secret + b"x" * 9000 + b"\r\n\r\n", {431}),
        (b"GET /" + b"my-secret" * 1000 + b" HTTP/1.1\r\n\r\n", {400, 431}),  # gunicorn's two parsers differ
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, {400, 431}),
    ]:
        line, _, body = answer(connect(server, data)).partition(b"\r\n\r\n")
        assert int(line.split()[1]) in statuses, body
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
        assert re.search(rb"\r\nx-request-id: req-[0-9a-f]{32}(\r\n|$)", line)
    assert "my-secret" not in server.log()


HEADS = {
    "an answer": b"GET /health HTTP/1.1\r\n\r\n",
    "one without a body": b"GET /nothing HTTP/1.0\r\n\r\n",
    "only a head": b"HEAD /health HTTP/1.1\r\nConnection: close\r\n\r\n",
    "no such path": b"GET /none HTTP/1.1\r\n\r\n",
    "a wrong method": b"DELETE /health HTTP/1.1\r\n\r\n",
    "a body that is too long": head(b"Content-Length: 104857600"),
    "no HTTP": b"garbage\r\n\r\n",
    "a header that is too long": b"GET /health HTTP/1.1\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", HEADS.values(), ids=HEADS)
def test_no_answer_is_sniffed_or_tells_what_sends_it(server: Server, request_bytes: bytes) -> None:
    """The application's and the worker's own alike, each header once."""
    lines = answer(connect(server, request_bytes)).partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert lines.count(b"x-content-type-options: nosniff") == 1
    assert not [line for line in lines if line.startswith((b"server:", b"via:", b"x-powered-by:"))]
    assert b"gunicorn" not in b"".join(lines)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"X: " + b"y" * 8000], 200),
        ([b"X: " + b"y" * 8300], 431),
        ([b"X%d: y" % index for index in range(100)], 200),
        ([b"X%d: y" % index for index in range(101)], 431),
        ([b"X%d: " % index + b"y" * 2000 for index in range(30)], 200),
        ([b"X%d: " % index + b"y" * 7000 for index in range(99)], 431),
    ],
    ids=["long", "too long", "many", "too many", "60 kB together", "690 kB together"],
)
def test_how_much_a_head_may_hold(server: Server, lines: list[bytes], status: int) -> None:
    """8 kB in one header, a hundred headers, 64 kB in all; what is beyond is refused, and the next client is served."""
    request = b"\r\n".join([b"GET /health HTTP/1.1", *lines, b"", b""])
    assert answer(connect(server, request)).startswith(b"HTTP/1.1 %d " % status)
    assert server.status("/health") == 200


@pytest.mark.parametrize("busy", [3, 4], ids=["a slot is free", "no slot is free"])
def test_admitted_requests_finish_after_sigterm_and_new_ones_are_answered(busy: int) -> None:
    """During the drain new connections get 503, afterwards they are refused; the process ends with 0."""
    with Server(module="tests.worker_app") as server:
        wait_alive(server)
        with ThreadPoolExecutor() as clients:
            admitted = [clients.submit(httpx.post, f"{server.url}?seconds=2", content=b"abc") for _ in range(busy)]
            wait_for(lambda: httpx.get(f"{server.url}/in_flight").text == str(busy))
            server.terminate()
            time.sleep(0.3)
            late = httpx.post(server.url, content=b"x")
            assert (late.status_code, late.text) == (503, "ShuttingDownError")
            assert late.headers["connection"] == "close"
            if busy == 4:  # what the main loop would refuse by itself
                late = httpx.post(f"{server.url}/v1/embeddings", content=b"x")
                assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")
                assert late.headers["connection"] == "close"
            assert [future.result().text for future in admitted] == ["3"] * busy
        assert server.wait_exit() == 0
        assert server.status("/health") is None


def test_an_idle_server_stops_at_once() -> None:
    """Nothing to wait for, connections that a load balancer has opened ahead included."""
    with Server(module="tests.worker_app") as server:
        wait_alive(server)
        ahead = [connect(server) for _ in range(3)]
        time.sleep(0.2)
        begin = time.monotonic()
        server.terminate()
        assert server.wait_exit() == 0
        assert time.monotonic() - begin < 2
        for connection in ahead:
            connection.close()


def test_a_worker_ends_with_its_master() -> None:
    """Nobody else would tell it to stop, and it holds the port and the engine's memory."""
    with Server(module="tests.worker_app") as server:
        wait_alive(server)
        worker = server.worker()
        server.process.kill()
        _, left = psutil.wait_procs([worker], timeout=10)
        for process in left:
            process.kill()
        assert not left


def test_half_a_request_does_not_hold_up_a_drain() -> None:
    """What would be refused in any case is refused before all of it has come."""
    with Server(module="tests.worker_app") as server:
        wait_alive(server)
        half = connect(server, head(b"Content-Length: 100") + b"half")
        assert server.status("/health") == 200  # whoever connects later is accepted later, so half has come
        begin = time.monotonic()
        server.terminate()
        told = answer(half)
        assert server.wait_exit() == 0
        assert time.monotonic() - begin < 4  # the drain may take 6
    assert told.startswith(b"HTTP/1.1 503 ")
    assert b'"code": "shutting_down"' in told


def test_an_answer_that_breaks_off_ends_its_connection_alone(server: Server) -> None:
    """What of it has not been sent is dropped."""
    worker = server.worker()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n")
    assert server.status("/health") == 200
    assert len(answer(connection)) < len(LARGE)
    assert server.worker() == worker  # gunicorn would start another
    assert server.status("/health") == 200


def test_an_answer_that_cannot_be_written_is_the_servers_mistake(server: Server) -> None:
    """500 in the envelope, and a line in the log, though gunicorn says it as if the request were malformed."""
    told = answer(connect(server, b"GET /wrong HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert told.startswith(b"HTTP/1.1 500 ")
    assert b'"type": "server_error"' in told
    assert "connection_failed" in server.log()


def test_an_answer_without_a_body(server: Server) -> None:
    """A head that nothing follows is sent all the same, and the connection goes on."""
    request = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    connection = connect(server, request)
    assert connection.recv(65536).startswith(b"HTTP/1.1 204 NO CONTENT")
    connection.sendall(b"HEAD" + request.removeprefix(b"GET"))
    assert answer(connection).startswith(b"HTTP/1.1 204 NO CONTENT")


def test_everybody_in_the_backlog_is_answered_in_a_drain() -> None:
    """However many have connected while the main loop was busy, and though each answer makes room at once."""
    with Server(module="tests.worker_app") as server:
        wait_alive(server)
        busy = connect(server, b"GET /busy HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.3)
        waiting = [connect(server, head(b"Content-Length: 1") + b"1") for _ in range(300)]
        server.terminate()
        statuses = Counter(answer(connection).split(b" ", 2)[1] for connection in waiting)
        assert set(statuses) <= {b"200", b"503"}  # those that the signal's own round still takes are served
        assert statuses.total() == 300
        assert statuses[b"503"] > 200
        assert answer(busy).endswith(b"done")
        assert server.wait_exit() == 0
