"""A client's connection: what has been received on it, and how it is read, written to and closed.

Each system call lets go of the interpreter, and then another thread takes it: with many clients these changes cost more
than the work. No call here waits for a client; what cannot be written at once is left to the main loop.
Source: gunicorn 27.0.1, gunicorn/workers/gthread.py.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gunicorn import SERVER
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.http.wsgi import InvalidResponseHeader, InvalidResponseHeaderName
from gunicorn.workers.gthread import TConn

from handler.errors import HeadTooLargeError, InternalError, InvalidRequestError, ServiceError
from handler.framing import RequestFrame

_CHUNK_BYTES = 256 * 1024
_SMALL_BYTES = 16 * 1024
_MOST_PARTS = 64  # of an answer, in one system call
_STATUS_LINE = b"HTTP/1."
_BANNER = b"Server: %b\r\n" % SERVER.encode()  # gunicorn has no setting for it
_NO_SNIFFING = b"X-Content-Type-Options: nosniff\r\n"  # of every answer


class TornRequestError(ParseException):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's parser wants more than what was taken for the whole request."""


def unreadable(exc: Exception) -> ServiceError:
    """Say what went wrong where gunicorn raised *exc*: mostly it could not read a request."""
    if isinstance(exc, LimitRequestLine | LimitRequestHeaders):
        return HeadTooLargeError("the request line or a header is too long, or there are too many headers")
    if isinstance(exc, ParseException) and not isinstance(exc, InvalidResponseHeader | InvalidResponseHeaderName):
        return InvalidRequestError(f"this is not HTTP that can be read ({type(exc).__name__})")
    return InternalError("something broke on our side; the log has the details")


class ClientSocket(socket.socket):
    """A socket that never waits.

    A response's head is sent together with what follows, and with a line of ours in the place of gunicorn's name.
    """

    _head = b""
    unsent: list[memoryview]  # what of the answer the kernel has not taken yet

    @classmethod
    def adopt(cls, other: socket.socket) -> ClientSocket:
        """Take over the connection of *other*."""
        client = cls(other.family, other.type, other.proto, fileno=other.detach())
        client.settimeout(0)
        client.unsent = []
        return client

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - the signature of the standard library
        """Stay as it is."""

    def recv_now(self) -> bytes | None:
        """Read what is there; None if nothing is, empty if the client has closed."""
        try:
            return super().recv(_CHUNK_BYTES)
        except BlockingIOError:
            return None

    def recv(self, size: int, flags: int = 0, /) -> bytes:  # noqa: ARG002 - the signature of the standard library
        """Refuse: the parser has the whole request already, and a thread must not wait for a client.

        Raises:
            TornRequestError: always.
        """
        raise TornRequestError

    def sendall(self, data: Any, flags: int = 0, /) -> None:  # noqa: ARG002 - the signature of the standard library
        """Send of *data* what can be sent at once and keep the rest in `unsent`.

        The head of a response waits for its body, or for `flush`.
        """
        if data[: len(_STATUS_LINE)] == _STATUS_LINE:
            self._head += bytes(data).replace(_BANNER, _NO_SNIFFING, 1)
            return
        untouched = not self.unsent
        self.unsent += [memoryview(part) for part in (self._head, data) if part]
        self._head = b""
        if untouched:
            self.send_now()

    def send_now(self) -> bool:
        """Send some of what is left; True when nothing is."""
        try:
            sent = self.sendmsg(self.unsent[:_MOST_PARTS]) if self.unsent else 0
        except BlockingIOError:
            return False
        while self.unsent and sent >= len(self.unsent[0]):
            sent -= len(self.unsent.pop(0))
        if self.unsent:
            self.unsent[0] = self.unsent[0][sent:]
        return not self.unsent

    def try_send(self, data: bytes) -> None:
        """Send a short message, or some of it, or none: its client may be gone."""
        with suppress(OSError):
            self.send(data)

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
        """Start with nothing, on *sock* from *client* to *server*, which are addresses.

        A body of more than *limit* bytes is not waited for; *linger* closes it later, when the client has closed too.
        """
        super().__init__(cfg, sock, client, server)
        self.received = bytearray()
        self.frame = RequestFrame(limit=limit)  # of what is being received
        self.cut_short = False  # the body of the request that is being handled was not received
        self.embeds = False  # the request that a thread handles is one for embeddings
        self.kept = False  # open for another request once the answer is out
        self.data_ready = True  # gunicorn's word for it: a thread never waits
        self._limit = limit
        self._linger = linger
        self._request = b""
        self._poller: selectors.BaseSelector | None = None  # that calls when something comes
        self._then: Callable[[Connection], None] | None = None

    def listen(self, poller: selectors.BaseSelector, then: Callable[[Connection], None]) -> None:
        """Have *poller* call *then* whenever something comes."""
        self._then = then
        if self._poller is None:
            self._poller = poller
            poller.register(self.sock, selectors.EVENT_READ, self._on_readable)

    def rest(self) -> None:
        """Have nothing called until `listen`, which costs nothing if nothing has come meanwhile, as most often."""
        self._then = None

    def ignore(self) -> None:
        """Be known to no poller."""
        self._then = None
        if self._poller is not None:
            self._poller.unregister(self.sock)
            self._poller = None

    def _on_readable(self, _sock: ClientSocket) -> None:
        if self._then is None:
            self.ignore()  # else the poller would come again at once
        else:
            self._then(self)

    @property
    def is_small(self) -> bool:
        """Whether parsing and tokenizing the request that was taken takes no more than a millisecond or two."""
        return len(self._request) <= _SMALL_BYTES

    def take_request(self) -> None:
        """Set the whole request aside for the thread that handles it; what came behind it stays."""
        self._request = self.frame.take(self.received)
        self.cut_short = self.frame.cut_short
        self.frame = RequestFrame(limit=self._limit)

    def init(self) -> None:
        """Hand the request to gunicorn's parser; called in the thread that handles it."""
        super().init()
        unreader = self.parser.unreader
        unreader.take_buffered()  # what of the last request nobody has read
        self.parser.mesg = None
        unreader.unread(self._request)
        self._request = b""

    def forget_request(self) -> None:
        """Let go of the request that is answered: its body may be large, and the connection idle for minutes."""
        self._request = b""
        if self.parser is not None:
            self.parser.mesg = None

    def close(self, graceful: bool = False) -> None:  # noqa: FBT001, FBT002 - gunicorn's signature
        """Close; *graceful* not before the client has, so that it gets all of its answer.

        gunicorn would wait for the client right here, in the main loop, which every other client needs.
        """
        if graceful:
            self._linger(self)
        else:
            self.ignore()
            super().close()
