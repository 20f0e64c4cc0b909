"""A client's connection: what has been received on it, and how it is read, written to and closed.

Each system call lets go of the interpreter, and then another thread takes it: with many clients these changes cost more
than the work. Python's own time limits add a `poll` to each call; here the kernel keeps them.
Source: gunicorn 27.0.1, gunicorn/workers/gthread.py.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from gunicorn import SERVER
from gunicorn.workers.gthread import TConn

_IO_TIMEOUT_S = 120  # for one blocking read, and for the writing of a whole response
_CHUNK_BYTES = 256 * 1024
_HEAD_BYTES = 64 * 1024  # of all headers together; gunicorn knows limits for one header and for their number only
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_STATUS_LINE = b"HTTP/1."
_BANNER = b"Server: %b\r\n" % SERVER.encode()  # gunicorn has no setting for it
NO_SNIFFING = b"X-Content-Type-Options: nosniff\r\n"  # of every answer


class ClientSocket(socket.socket):
    """A socket that always blocks, with a time limit.

    A response's head is sent together with what follows, and with a line of ours in the place of gunicorn's name.
    """

    _head = b""

    @classmethod
    def adopt(cls, other: socket.socket) -> ClientSocket:
        """Take over the connection of *other*."""
        client = cls(other.family, other.type, other.proto, fileno=other.detach())
        client.settimeout(None)
        limit = struct.pack("ll", _IO_TIMEOUT_S, 0)  # struct timeval
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        return client

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - the signature of the standard library
        """Stay as it is: whoever must not wait says so with each call."""

    def recv_now(self) -> bytes | None:
        """Read what is there; None if nothing is, empty if the client has closed."""
        try:
            return super().recv(_CHUNK_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Wait for bytes.

        Raises:
            TimeoutError: none came in time.
        """
        try:
            return super().recv(size, flags)
        except BlockingIOError:
            raise TimeoutError from None

    def sendall(self, data: Any, flags: int = 0, /) -> None:  # noqa: ARG002 - the signature of the standard library
        """Send *data*; the head of a response waits for its body, or for `flush`.

        Raises:
            TimeoutError: the client reads too slowly.
        """
        if data[: len(_STATUS_LINE)] == _STATUS_LINE:
            self._head += bytes(data).replace(_BANNER, NO_SNIFFING, 1)
            return
        parts = [memoryview(self._head), memoryview(data)] if self._head else [memoryview(data)]
        self._head = b""
        deadline = time.monotonic() + _IO_TIMEOUT_S
        while parts:
            try:
                sent = self.sendmsg(parts)
            except BlockingIOError:
                raise TimeoutError from None
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][sent:]
                if time.monotonic() > deadline:
                    raise TimeoutError

    def flush(self) -> None:
        """Send a head that has no body."""
        if self._head:
            self.sendall(b"")


class Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """A connection and the bytes of the request that is being received on it."""

    def __init__(  # noqa: PLR0913 - four of them are gunicorn's
        self,
        cfg: Any,
        sock: ClientSocket,
        client: Any,
        server: Any,
        *,
        limit: int,
        linger: Callable[[Connection], None],
    ) -> None:
        """Start with nothing.

        Args:
            cfg: gunicorn's settings.
            sock: the connection.
            client: the address of the other end.
            server: the address of this one.
            limit: the longest body in bytes that is waited for.
            linger: closes it later, when the client has closed too.
        """
        super().__init__(cfg, sock, client, server)
        self.received = bytearray()
        self.waiting = False  # for more of the request, in the main loop
        self._limit = limit
        self._linger = linger
        self._wanted: int | None = None  # bytes of the whole request, once its head is there
        self._chunked = False
        self.expects_continue = False

    def init(self) -> None:
        """Put what was received in front of the parser; called in the thread that handles the request."""
        super().init()
        if self.received:
            self.parser.unreader.unread(bytes(self.received))
        self.received = bytearray()
        self._wanted = None
        self._chunked = False

    def is_complete(self) -> bool:
        """Whether a thread can handle the request without waiting for the client.

        What is malformed or too long counts as complete: gunicorn and the application say so to the client.
        """
        if self._wanted is None:
            self._read_head()
        if self._wanted is None:
            return False
        if self._chunked:
            return self.received.endswith(_LAST_CHUNK) or len(self.received) > self._limit
        return len(self.received) >= self._wanted

    @property
    def head_is_too_large(self) -> bool:
        """Whether the head has not ended where it should; a thread that read on would wait for the client."""
        return self._wanted is None and len(self.received) > _HEAD_BYTES

    def _read_head(self) -> None:
        end = self.received.find(_HEAD_END, 0, _HEAD_BYTES)
        if end < 0:
            return
        head = bytes(self.received[: end + 2])
        length = _LENGTH.search(head)
        body = int(length[1]) if length else 0
        self._chunked = _CHUNKED.search(head) is not None
        # A body over the limit is refused by its length alone, without being received.
        self._wanted = end + len(_HEAD_END) + (body if body <= self._limit else 0)
        self.expects_continue = _EXPECT.search(head) is not None and body <= self._limit

    def close(self, graceful: bool = False) -> None:  # noqa: FBT001, FBT002 - gunicorn's signature
        """Close; *graceful* not before the client has, so that it gets all of its answer.

        gunicorn would wait for the client right here, in the main loop, which every other client needs.
        """
        if graceful:
            self._linger(self)
        else:
            super().close()
