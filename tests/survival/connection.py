"""A connection without a client library, and what is in an answer."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ANSWER_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One connection that reads exactly one answer for each request."""

    def __init__(self, port: int) -> None:
        """Connect."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_S)
        self._received = b""

    def answer(self) -> Answer:
        """Read one response; what came behind it stays for the next.

        Raises:
            ConnectionError: the server closed before its end.
        """
        while b"\r\n\r\n" not in self._received:
            self._read()
        head, _, rest = self._received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        length = int(headers.get("content-length", "0"))
        self._received = rest
        while len(self._received) < length:
            self._read()
        body, self._received = self._received[:length], self._received[length:]
        return Answer(int(lines[0].split()[1]), headers, body)

    def _read(self) -> None:
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("closed without an answer")
        self._received += data

    def has_more(self) -> bool:
        """Whether bytes have come that belong to no request."""
        self.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            self._received += self.socket.recv(1000)
        self.socket.settimeout(_ANSWER_S)
        return bool(self._received)

    def reset(self) -> None:
        """Break off without saying goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def vectors_of(body: bytes, encoding: str) -> NDArray[np.float32]:
    """Read the rows of an answer, (n, dim)."""
    if encoding == "bytes_only":
        return np.frombuffer(body, dtype="<f4").reshape(-1, 384)
    rows = sorted(json.loads(body)["data"], key=lambda row: int(row["index"]))
    if encoding == "float":
        return np.array([row["embedding"] for row in rows], dtype=np.float32)
    return np.array([np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in rows])
