"""Connections without a client library, for what none of them would send."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

from tests.server import Server

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def raw(server: Server, *, receive_buffer: int | None = None) -> socket.socket:
    """Connect; a small *receive_buffer*, and packets as small as a network's, make a reader that soon takes no more."""
    connection = socket.socket()
    connection.settimeout(60)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
    connection.connect(("127.0.0.1", server.port))
    return connection


def head(*lines: str, path: str = "/v1/embeddings") -> bytes:
    """Build the head of a POST with a valid key."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", "Authorization: Bearer test-key", *lines, "", ""]).encode()


def request(**content: Any) -> bytes:
    """Build a whole request."""
    body = json.dumps(content).encode()
    return head(f"Content-Length: {len(body)}") + body


def read_answers(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Read *count* answers, status and body of each; nothing may come behind them."""
    received = b""
    answers: list[tuple[int, bytes]] = []
    while len(answers) < count:
        start, end, rest = received.partition(b"\r\n\r\n")
        length = _LENGTH.search(start) if end else None
        if length is None or len(rest) < int(length[1]):
            data = connection.recv(1 << 18)
            assert data, f"closed after {len(answers)} of {count} answers"
            received += data
            continue
        answers.append((int(start.split()[1]), rest[: int(length[1])]))
        received = rest[int(length[1]) :]
    assert not received
    return answers
