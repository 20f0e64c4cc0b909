"""Clients that send, read or close slowly, or never, hold up nobody else."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.server import Server
from tests.worker_app import LARGE, LIMIT_BYTES
from tests.worker_client import answer, connect, head, wait_alive


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """The worker with a small application, four threads."""
    with Server(module="tests.worker_app") as server:
        wait_alive(server)
        yield server


def test_silent_and_slow_senders_hold_no_thread(server: Server) -> None:
    """A hundred of each leave a server of four threads as quick as it was."""
    parts = [b"", b"POST / HTTP/1.1\r\nHost: x\r\n", head(b"Content-Length: 1000") + b"half"]
    parts.append(b"POST / HTTP/1.1\r\n" + b"X: %b\r\n" % (b"y" * 7000) * 8)
    slow = [connect(server, part) for part in parts for _ in range(100)]
    time.sleep(0.3)
    for _ in range(20):
        begin = time.monotonic()
        assert server.status("/health") == 200
        assert time.monotonic() - begin < 0.5
    for connection in slow:
        connection.close()


def assert_quick(server: Server) -> None:
    """Whatever other clients do, this one is served."""
    for _ in range(10):
        begin = time.monotonic()
        with connect(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    "data",
    [
        head(b"Content-Length: 1") + b"1" + b"POST / HTTP/1.1\r\nHost: x\r\n",
        head(b"Content-Length: 1") + b"1" + head(b"Content-Length: 100") + b"half",
        head(b"Content-Length: 104857600"),
        head(b"Content-Length: 0000000000000000100") + b"half",
        head(b"Transfer-Encoding: chunked") + b"100\r\n0\r\n\r\n",
        head(b"Transfer-Encoding: gzip, chunked"),
        b"\r\n\r\n" + head(b"Content-Length: 1"),
    ],
    ids=["next-head", "next-body", "over-limit", "zeros", "false-end", "unknown-coding", "empty-lines"],
)
def test_no_half_request_holds_a_thread(server: Server, data: bytes) -> None:
    """Forty of each: more of them is waited for in the main loop, or they are refused."""
    begun = [connect(server, data) for _ in range(40)]
    time.sleep(0.2)
    assert_quick(server)
    for connection in begun:
        connection.close()


def test_readers_that_take_nothing_hold_no_thread(server: Server) -> None:
    """Thirty answers of 3 MB lie about; each arrives whole once its client reads."""
    request = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
    lazy = []
    for _ in range(30):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(request)
        lazy.append(connection)
    time.sleep(0.5)
    assert_quick(server)
    for connection in lazy[10:]:
        connection.close()
    assert_quick(server)
    for connection in lazy[:10]:
        connection.sendall(request)  # the connection goes on after a slow answer
        assert answer(connection).count(LARGE) == 2


@pytest.mark.parametrize("limit", [{"DESCRIPTORS": "60"}, {"CONNECTIONS": "60"}], ids=["descriptors", "connections"])
def test_more_connections_than_there_is_room_for(limit: dict[str, str]) -> None:
    """Those that have sent nothing make room, and the server lives."""
    with Server(module="tests.worker_app", **limit) as server:
        wait_alive(server)
        silent = [connect(server) for _ in range(100)]
        time.sleep(1.2)
        with httpx.Client(timeout=20) as client:
            assert client.post(server.url, content=b"abc").text == "3"
        for connection in silent:
            connection.close()
        assert_quick(server)


def test_a_head_without_end_is_refused_and_takes_no_thread(server: Server) -> None:
    """A thread that parsed it would wait for more; the client learns of it though it goes on sending."""
    endless = b"POST / HTTP/1.1\r\n" + b"X: %b\r\n" % (b"y" * 7000) * 10
    clients = [connect(server, endless) for _ in range(20)]
    assert server.status("/health") == 200
    for client in clients:
        assert answer(client).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(("path", "status"), [(b"/", b"200"), (b"/v1/embeddings", b"429")], ids=["handled", "refused"])
def test_an_idle_connection_holds_nothing_of_its_last_request(path: bytes, status: bytes) -> None:
    """Neither a body that was handled nor one that was refused while every slot was taken."""
    request = head(b"Content-Length: %d" % LIMIT_BYTES).replace(b"/", path, 1) + b"a" * LIMIT_BYTES
    with Server(module="tests.worker_app") as server, ExitStack() as connections:
        wait_alive(server)
        for _ in range(4 if status == b"429" else 0):
            connections.enter_context(connect(server, b"POST /?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n"))
        time.sleep(0.2)
        resident = []
        for _ in range(2):  # by the first sixty the allocator has what it needs
            for _ in range(60):
                idle = connections.enter_context(connect(server, request))
                assert idle.recv(12) == b"HTTP/1.1 " + status
            resident.append(server.worker().memory_info().rss)
        server.worker().kill()  # else it would wait for those that have the slots
        assert resident[1] - resident[0] < 20 * LIMIT_BYTES


def test_a_client_that_goes_away(server: Server) -> None:
    """Nothing of it stays."""
    for part in (b"", head(b"Content-Length: 1000") + b"half"):
        for _ in range(50):
            connect(server, part).close()
    time.sleep(0.5)
    descriptors = server.worker().num_fds()
    assert server.status("/health") == 200
    assert descriptors < 60


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


@pytest.mark.parametrize("silent", [b"", b"X\r\n\r\n"], ids=["silent", "refused and not closed"])
def test_without_descriptors_room_is_made_at_once(silent: bytes) -> None:
    """Many more clients than there are descriptors, each taking one: somebody who asks waits no longer than usual.

    Those that have been refused count as closed, and would each keep their descriptor for half a minute.
    """
    with Server(module="tests.worker_app", DESCRIPTORS="60") as server:
        wait_alive(server)
        lazy = [connect(server, silent) for _ in range(400)]
        begin = time.monotonic()
        while time.monotonic() - begin < 3:
            for connection in lazy:
                with suppress(OSError):
                    connection.send(b"x" if silent else b"")
            assert_quick(server)
        for connection in lazy:
            connection.close()
        assert_quick(server)
