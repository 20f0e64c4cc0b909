"""Talking to the worker's test application without a client library."""

from __future__ import annotations

import socket
import time

from tests.server import Server


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
