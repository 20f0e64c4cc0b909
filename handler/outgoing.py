"""What is left to do with connections once their request is answered: the rest of the answer, a pause, and the end.

A client that reads slowly costs no thread: the main loop writes when the kernel has room. It gets a time for the whole
answer, and all of them together a number of bytes. Where there are too many connections, those make room that no
request is worked on for. Used by the main loop only.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from handler.connections import ClientSocket, Connection
from handler.incoming import Incoming

_TAKE_S = 120.0  # for a client to take the whole of an answer
_UNSENT_BYTES = 512 * 2**20  # of all answers that are being written
_LINGER_S = 2.0  # for the client to close after the last answer on a connection, or to go on sending
_LONGEST_LINGER_S = 30.0
_MOST_LINGERING = 512
_AT_ONCE = 16  # connections that are closed to make room
_PATIENCE_S = 1.0  # a connection younger than that is about to send its request


class Outgoing:
    """Answers that clients have not taken yet, oldest first."""

    def __init__(self, poller: selectors.BaseSelector, done: Callable[[Connection, bool], None]) -> None:
        """Write through *poller*; *done* gets each connection and whether its answer went out whole."""
        self._poller = poller
        self._done = done
        self._waiting: dict[Connection, tuple[float, int]] = {}  # -> when it is given up, bytes
        self._bytes = 0

    def __len__(self) -> int:
        """How many clients have not taken their answer."""
        return len(self._waiting)

    def add(self, conn: Connection) -> None:
        """Write what *conn* has unsent as its client reads; the oldest make room where it is too much."""
        size = sum(map(len, conn.sock.unsent))
        self._waiting[conn] = (time.monotonic() + _TAKE_S, size)
        self._bytes += size
        conn.ignore()
        self._poller.register(conn.sock, selectors.EVENT_WRITE, partial(self._on_writable, conn))

    def _on_writable(self, conn: Connection, client: ClientSocket) -> None:
        try:
            if not client.send_now():
                return
        except OSError:
            self._end(conn, whole=False)
        else:
            self._end(conn, whole=True)

    def _end(self, conn: Connection, *, whole: bool) -> None:
        _, size = self._waiting.pop(conn)
        self._bytes -= size
        self._poller.unregister(conn.sock)
        conn.sock.unsent.clear()
        self._done(conn, whole)

    def drop_oldest(self) -> bool:
        """Give up the client that has had the most time; False where there is none."""
        if not self._waiting:
            return False
        self._end(next(iter(self._waiting)), whole=False)
        return True

    def expire(self) -> None:
        """Give up clients whose time is over, and the oldest while the answers are too many bytes."""
        now = time.monotonic()
        while self._waiting and (self._bytes > _UNSENT_BYTES or next(iter(self._waiting.values()))[0] <= now):
            self.drop_oldest()


class Idle:
    """Connections kept open for another request, oldest first."""

    def __init__(
        self,
        poller: selectors.BaseSelector,
        *,
        readable: Callable[[Connection], None],
        gone: Callable[[Connection], None],
    ) -> None:
        """Listen through *poller*; *readable* gets one on which something comes, *gone* one that is given up."""
        self._poller = poller
        self._readable = readable
        self._gone = gone
        self._until: dict[Connection, float] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._until)

    def add(self, conn: Connection, timeout_s: float) -> None:
        """Keep *conn*, which is no longer than *timeout_s* to wait for its next request."""
        self._until[conn] = time.monotonic() + timeout_s
        conn.listen(self._poller, self._on_readable)

    def _on_readable(self, conn: Connection) -> None:
        del self._until[conn]
        self._readable(conn)

    def cap(self, timeout_s: float) -> None:
        """Keep those that are here no longer than *timeout_s* from now."""
        latest = time.monotonic() + timeout_s
        self._until = {conn: min(until, latest) for conn, until in self._until.items()}

    def drop_oldest(self) -> bool:
        """Close the one that has waited longest; False where there is none."""
        if not self._until:
            return False
        conn = next(iter(self._until))
        del self._until[conn]
        self._gone(conn)
        return True

    def expire(self) -> None:
        """Close those whose time is over."""
        while self._until and next(iter(self._until.values())) <= time.monotonic():
            self.drop_oldest()


class Lingering:
    """Connections closed for writing, whose clients have not closed yet; what they still send is dropped.

    Were they closed with bytes unread, the kernel would reset them and clients might lose their answers.
    """

    def __init__(self, poller: selectors.BaseSelector) -> None:
        """Listen through *poller*."""
        self._poller = poller
        self._latest: dict[Connection, float] = {}  # -> when it ends whatever the client does

    def __len__(self) -> int:
        """How many connections are left."""
        return len(self._latest)

    def add(self, conn: Connection) -> None:
        """Close for writing, and wholly when the client has closed too or is silent for a while."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            conn.close()
            return
        if len(self._latest) >= _MOST_LINGERING:
            self.drop_oldest()
        now = time.monotonic()
        conn.timeout = now + _LINGER_S
        self._latest[conn] = now + _LONGEST_LINGER_S
        conn.listen(self._poller, self._on_leftover)

    def drop_oldest(self) -> bool:
        """Close the one that has lingered longest; False where there is none."""
        if not self._latest:
            return False
        self._end(next(iter(self._latest)))
        return True

    def _on_leftover(self, conn: Connection) -> None:
        try:
            data = conn.sock.recv_now()
        except OSError:
            data = b""
        if data == b"":
            self._end(conn)
        elif data:
            conn.timeout = min(time.monotonic() + _LINGER_S, self._latest[conn])

    def _end(self, conn: Connection) -> None:
        del self._latest[conn]
        conn.close()

    def expire(self) -> None:
        """Close those whose time is over."""
        if self._latest:
            now = time.monotonic()
            for conn in [conn for conn in self._latest if conn.timeout <= now]:
                self._end(conn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Room for another connection, where there are too many or no descriptor is left: whoever does nothing makes it."""

    incoming: Incoming
    idle: Idle
    outgoing: Outgoing
    lingering: Lingering

    def make(self, *, of_descriptors: bool) -> bool:
        """Close some; False where there was none to close.

        Lingering ones go first, for they count as closed, if it is *of_descriptors*, which they have. Then slow
        senders and idle ones, and if there is none of these, one that has only begun to send or that reads slowly.
        """
        dropped = [self._drop_useless(of_descriptors=of_descriptors) for _ in range(_AT_ONCE)]
        return any(dropped) or self.incoming.drop_oldest(older_than_s=0) or self.outgoing.drop_oldest()

    def _drop_useless(self, *, of_descriptors: bool) -> bool:
        if of_descriptors and self.lingering.drop_oldest():
            return True
        return self.incoming.drop_oldest(older_than_s=_PATIENCE_S) or self.idle.drop_oldest()
