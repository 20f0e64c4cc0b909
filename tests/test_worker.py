from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.server import Server
from tests.worker_app import LARGE, LIMIT_BYTES


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The worker with a small application, four threads."""
    with Server(module="tests.worker_app") as server:
        wait_alive(server)
        yield server


def wait_alive(server: Server) -> None:
    """Wait until the server listens."""
    deadline = time.monotonic() + 20
    while server.status("/health") != 200:
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.05)


def connect(server: Server, data: bytes = b"") -> socket.socket:
    """Open a connection and send *data* on it."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    connection.sendall(data)
    return connection


def answer(connection: socket.socket) -> bytes:
    """Read until the server closes or is silent for a while, then close."""
    received = b""
    with connection:
        try:
            while data := connection.recv(65536):
                received += data
                connection.settimeout(0.5)
        except (TimeoutError, ConnectionResetError):
            pass
    return received


def head(*lines: bytes) -> bytes:
    """Build the head of a POST."""
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: x", *lines, b"", b""])


def test_silent_and_slow_senders_hold_no_thread(server: Server) -> None:
    """A hundred of each leave a server of four threads as quick as it was."""
    parts = [b"", b"POST / HTTP/1.1\r\nHost: x\r\n", head(b"Content-Length: 1000") + b"half"]
    slow = [connect(server, part) for part in parts for _ in range(100)]
    time.sleep(0.3)
    for _ in range(20):
        begin = time.monotonic()
        assert server.status("/health") == 200
        assert time.monotonic() - begin < 0.5
    for connection in slow:
        connection.close()


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


def test_a_client_that_goes_away(server: Server) -> None:
    """Nothing of it stays."""
    for part in (b"", head(b"Content-Length: 1000") + b"half"):
        for _ in range(50):
            connect(server, part).close()
    time.sleep(0.5)
    descriptors = server.worker().num_fds()
    assert server.status("/health") == 200
    assert descriptors < 60


def test_admitted_requests_finish_after_sigterm_and_new_ones_are_answered() -> None:
    """During the drain new connections get 503, afterwards they are refused; the process ends with 0."""
    with Server(module="tests.worker_app") as server:
        wait_alive(server)
        with ThreadPoolExecutor() as clients:
            admitted = [clients.submit(httpx.post, f"{server.url}?seconds=2", content=b"abc") for _ in range(3)]
            time.sleep(0.5)
            server.terminate()
            time.sleep(0.3)
            late = httpx.post(server.url, content=b"x")
            assert (late.status_code, late.text) == (503, "ShuttingDownError")
            assert late.headers["connection"] == "close"
            assert [future.result().text for future in admitted] == ["3"] * 3
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


def test_a_client_that_does_not_close_holds_nobody_up(server: Server) -> None:
    """After `Connection: close` the server waits for the client to close, and serves everybody else meanwhile."""
    lazy = [connect(server, head(b"Content-Length: 1", b"Connection: close") + b"1") for _ in range(20)]
    time.sleep(0.2)
    for _ in range(20):
        begin = time.monotonic()
        assert server.status("/health") == 200
        assert time.monotonic() - begin < 0.5
    for connection in lazy:
        assert answer(connection).endswith(b"\r\n\r\n1")


def test_a_large_answer_arrives_whole_at_a_slow_reader(server: Server) -> None:
    """What does not fit into the kernel's buffer is sent as the client reads, head and body in order."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    received = b""
    while data := connection.recv(65536):
        received += data
        if len(received) < 200_000:
            time.sleep(0.005)
    connection.close()
    start, _, body = received.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 200 OK")
    assert body == LARGE


def test_an_answer_without_a_body(server: Server) -> None:
    """A head that nothing follows is sent all the same, and the connection goes on."""
    request = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"
    connection = connect(server, request)
    assert connection.recv(65536).startswith(b"HTTP/1.1 204 NO CONTENT")
    connection.sendall(b"HEAD" + request.removeprefix(b"GET"))
    assert answer(connection).startswith(b"HTTP/1.1 204 NO CONTENT")
