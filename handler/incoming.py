"""Requests that are still being received, collected in the main loop until they are whole.

A slow or silent sender costs memory, of which there is a limit, and never a thread. Used by the main loop only.
"""

from __future__ import annotations

import resource
import selectors
import time
from collections.abc import Callable

from handler.connections import Connection
from handler.errors import OverloadedError, ServiceError, SlowRequestError

_READ_TIMEOUT_S = 60.0  # for the whole of a request
_BUFFERED_BYTES = 512 * 2**20  # of all of them
_DESCRIPTORS = 8192  # four for each connection, where the system lets us


class Incoming:
    """Connections on which a request, or the rest of one, is waited for; oldest first."""

    def __init__(
        self,
        poller: selectors.BaseSelector,
        *,
        whole: Callable[[Connection], None],
        refuse: Callable[[Connection, ServiceError], None],
        gone: Callable[[Connection], None],
    ) -> None:
        """Listen through *poller*, the main loop's.

        *whole* gets a connection whose request is complete, *refuse* one that must be answered with an error and
        closed, *gone* one that its client has closed, or on which nothing came in time.
        """
        self._poller = poller
        self._whole = whole
        self._refuse = refuse
        self._gone = gone
        self._waiting: dict[Connection, float] = {}  # -> when it is given up
        self._bytes = 0  # that those have received
        self._too_late: ServiceError = SlowRequestError("the request did not arrive in time")

    def __len__(self) -> int:
        """How many connections are waited for."""
        return len(self._waiting)

    def add(self, conn: Connection) -> None:
        """Wait for a request on *conn*, or for the rest of one."""
        self._waiting[conn] = time.monotonic() + _READ_TIMEOUT_S
        self._bytes += len(conn.received)
        conn.listen(self._poller, self.receive)

    def receive(self, conn: Connection) -> None:
        """Take what has come on *conn*, which may be a kept-alive one."""
        try:
            data = conn.sock.recv_now()
        except OSError:
            data = b""
        if data == b"":
            self._forget(conn)
            self._gone(conn)
            return
        conn.received += data or b""
        if conn in self._waiting:
            self._bytes += len(data or b"")
        self.advance(conn)

    def advance(self, conn: Connection) -> None:
        """Hand on what *conn* has received, or wait for the rest."""
        if conn.frame.is_complete(conn.received):
            self._forget(conn)
            if conn.frame.error is not None:
                self._refuse(conn, conn.frame.error)
            else:
                self._whole(conn)
            return
        if conn not in self._waiting:
            self.add(conn)
        if self._bytes > _BUFFERED_BYTES:
            self._forget(conn)
            self._refuse(conn, OverloadedError("too many requests are being received; try again"))
        elif conn.frame.expects_continue:
            conn.frame.expects_continue = False
            conn.sock.try_send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _forget(self, conn: Connection) -> None:
        conn.rest()
        if self._waiting.pop(conn, None) is not None:
            self._bytes -= len(conn.received)

    def expire(self) -> None:
        """Give up what did not arrive in time."""
        now = time.monotonic()
        while self._waiting and next(iter(self._waiting.values())) <= now:
            self._give_up(next(iter(self._waiting)))

    def drop_oldest(self, *, older_than_s: float) -> bool:
        """Give up the connection that has waited longest; False where none has waited so long."""
        for conn, deadline in self._waiting.items():
            if time.monotonic() - (deadline - _READ_TIMEOUT_S) < older_than_s:
                return False
            self._give_up(conn)
            return True
        return False

    def _give_up(self, conn: Connection) -> None:
        self._forget(conn)
        if conn.received:
            self._refuse(conn, self._too_late)
        else:
            self._gone(conn)

    def end(self, *, silent_s: float, begun_s: float, error: ServiceError) -> None:
        """Wait no longer than that for what has not come yet, and answer what has begun to come with *error* then.

        A client that has just connected is about to send; nobody waits on those that load balancers open ahead.
        """
        now = time.monotonic()
        self._too_late = error
        capped = {conn: min(end, now + (begun_s if conn.received else silent_s)) for conn, end in self._waiting.items()}
        self._waiting = dict(sorted(capped.items(), key=lambda item: item[1]))


def raise_descriptor_limit() -> None:
    """Use what the system allows: each connection is a descriptor, and some limit processes to 1024 unasked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
