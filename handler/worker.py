"""gunicorn's threaded worker, mended where it would fail a public embedding server.

- Bytes of a request are collected in the main loop; a thread is taken only when the request is complete. A slow or
  silent sender therefore costs memory, of which there is a limit, and never a thread.
- On SIGTERM connections are still accepted and answered 503 while admitted requests finish; then the socket closes.
Source: gunicorn 27.0.1, gunicorn/workers/gthread.py.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections import deque
from functools import partial
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from handler.connections import ClientSocket, Connection
from handler.errors import (
    HeadTooLargeError,
    InternalError,
    InvalidRequestError,
    OverloadedError,
    ServiceError,
    SlowRequestError,
)
from handler.lifecycle import Lifecycle
from handler.logs import current_request, where
from handler.refusals import refuse

SPARE_THREADS = 16  # beyond the slots: health, models, and errors while every slot is taken

log = logging.getLogger(__name__)

_READ_TIMEOUT_S = 60.0  # for the whole of a request
_SILENT_LINGER_S = 0.5  # in a drain, for the first byte on a new connection
_LINGER_S = 2.0  # for the client to close after the last answer on a connection
_NOTIFY_S = 1.0
_BUFFERED_BYTES = 512 * 2**20  # of all requests that are still being received


class ErrorLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log without its access log, for which it would gather ninety values of every request."""

    access_log_enabled = False


class EmbeddingWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """One process, one engine."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Count what is buffered over all connections."""
        super().__init__(*args, **kwargs)
        self._buffered = 0  # bytes
        self._lingering: deque[Connection] = deque()
        self._notified = 0.0

    @property
    def _lifecycle(self) -> Lifecycle[Any]:
        lifecycle: Lifecycle[Any] = self.wsgi.extensions["lifecycle"]
        return lifecycle

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection and wait for its request in the main loop."""
        try:
            client, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self.nr_conns += 1
        conn = Connection(
            self.cfg,
            ClientSocket.adopt(client),
            address,
            listener.getsockname(),
            limit=self.wsgi.config["MAX_CONTENT_LENGTH"],
            linger=self._linger,
        )
        self._wait_for(conn)

    def on_client_socket_readable(self, conn: Connection, client: ClientSocket) -> None:
        """Receive the next request of a kept-alive connection, most often at once."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._on_bytes(conn, client)

    def _wait_for(self, conn: Connection) -> None:
        """Wait for a request, or for the rest of one."""
        conn.timeout = time.monotonic() + _READ_TIMEOUT_S
        conn.waiting = True
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_bytes, conn))

    def _on_bytes(self, conn: Connection, client: ClientSocket) -> None:
        try:
            data = client.recv_now()
        except OSError:
            data = b""
        if data == b"":
            self._drop(conn)
            return
        conn.received += data or b""
        self._buffered += len(data or b"")
        if conn.is_complete():
            self._forget(conn)
            conn.data_ready = True
            self.enqueue_req(conn)
        elif self._buffered > _BUFFERED_BYTES:
            self._refuse(conn, OverloadedError("too many requests are being received; try again"))
        else:
            if not conn.waiting:
                self._wait_for(conn)
            if conn.expects_continue:
                conn.expects_continue = False
                client.send(b"HTTP/1.1 100 Continue\r\n\r\n", socket.MSG_DONTWAIT)

    def _drop(self, conn: Connection) -> None:
        """Close *conn*, of which nothing is wanted any more."""
        self._forget(conn)
        conn.close()
        self.nr_conns -= 1

    def _forget(self, conn: Connection) -> None:
        """Take *conn* out of the receiving state."""
        if conn.waiting:
            conn.waiting = False
            self.poller.unregister(conn.sock)
            self.pending_conns.remove(conn)
        self._buffered -= len(conn.received)

    def _refuse(self, conn: Connection, error: ServiceError) -> None:
        """Answer without a thread and close."""
        self._forget(conn)
        self._send(conn.sock, error)
        conn.close()
        self.nr_conns -= 1

    def _send(self, client: socket.socket, error: ServiceError) -> str:
        return refuse(client, error, count=self.wsgi.extensions.get("refused"))

    def handle(self, conn: Connection) -> Any:
        """Handle one request, in a thread."""
        current_request.set(None)  # the thread's last request is over
        kept = super().handle(conn)
        try:
            conn.sock.flush()
        except OSError:
            return False
        return kept

    def _linger(self, conn: Connection) -> None:
        """Close for writing, and wholly when the client has closed too; until then what it still sends is dropped.

        Were it closed with bytes unread, the kernel would reset the connection and the client might lose its answer.
        """
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            conn.close()
            return
        conn.timeout = time.monotonic() + _LINGER_S
        self._lingering.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_leftover, conn))

    def _on_leftover(self, conn: Connection, client: ClientSocket) -> None:
        try:
            data = client.recv_now()
        except OSError:
            data = b""
        if data == b"":
            self._end(conn)

    def _end(self, conn: Connection) -> None:
        self.poller.unregister(conn.sock)
        self._lingering.remove(conn)
        conn.close()

    def _end_lingering(self) -> None:
        while self._lingering and self._lingering[0].timeout <= time.monotonic():
            self._end(self._lingering[0])

    def notify(self) -> None:
        """Tell the master of being alive, once a second instead of for every event."""
        now = time.monotonic()
        if now - self._notified >= _NOTIFY_S:
            self._notified = now
            super().notify()

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:  # noqa: ARG002 - gunicorn's
        """Answer what gunicorn cannot parse in the envelope; its own line in the log would quote headers."""
        name = type(exc).__name__
        error: ServiceError = InternalError("something broke on our side; the log has the details")
        if isinstance(exc, LimitRequestLine | LimitRequestHeaders):
            error = HeadTooLargeError("the request line or a header is too long, or there are too many headers")
        elif isinstance(exc, ParseException):
            error = InvalidRequestError(f"this is not HTTP that can be read ({name})")
        request_id = self._send(client, error)
        if isinstance(error, InternalError):
            log.error("connection_failed", extra={"request_id": request_id, "error": name, "where": where(exc)})

    def murder_pending(self) -> None:
        """Close connections whose request did not arrive in time."""
        now = time.monotonic()
        for conn in [conn for conn in self.pending_conns if conn.timeout <= now]:
            if conn.received:
                self._refuse(conn, SlowRequestError("the request did not arrive in time"))
            else:
                self._drop(conn)

    def _cap_silent(self) -> None:
        """Wait a moment only for connections on which nothing has come.

        A client that has just connected is about to send; nobody waits on those that load balancers open ahead.
        """
        for conn in self.pending_conns:
            if not conn.received:
                conn.timeout = min(conn.timeout, time.monotonic() + _SILENT_LINGER_S)

    def run(self) -> None:
        """Serve until told to stop, then drain."""
        self.poller.register(self.method_queue.fileno(), selectors.EVENT_READ, self.method_queue.run_callbacks)
        self.set_accept_enabled(True)
        while self.alive and self.is_parent_alive():
            self._turn(1.0)
        self._drain()

    def _turn(self, timeout_s: float) -> None:
        """One round of the main loop."""
        self.notify()
        self.set_accept_enabled(self.nr_conns < self.worker_connections)
        self.wait_for_and_dispatch_events(timeout=timeout_s)
        self.murder_keepalived()
        self.murder_pending()
        self._end_lingering()

    def _drain(self) -> None:
        """Finish what was admitted, answer the rest 503, close.

        While the model loads there is nothing to finish and the process ends at once.
        """
        lifecycle = self._lifecycle
        loading = lifecycle.model is None
        lifecycle.drain()
        begin = time.monotonic()
        deadline = begin + (0 if loading else max(0.0, self.cfg.graceful_timeout - 2))
        log.info("draining", extra={"in_flight": lifecycle.in_flight, "connections": self.nr_conns})
        self._cap_keepalive(begin + STOP_KEEPALIVE_LINGER)
        while lifecycle.in_flight and time.monotonic() < deadline:
            self._turn(0.05)
        for listener in self.sockets:  # whoever is in the backlog is answered 503, whoever comes later is refused
            self._accept_backlog(listener)
        self.set_accept_enabled(False)
        for listener in self.sockets:
            listener.close()
        self._cap_silent()
        while (self.nr_conns or self._lingering) and time.monotonic() < deadline:
            self.notify()
            self.wait_for_and_dispatch_events(timeout=0.05)
            self.murder_keepalived()
            self.murder_pending()
            self._end_lingering()
        for finish in self.wsgi.extensions.get("on_stop", ()):
            finish()
        log.info("stopped", extra={"unanswered": lifecycle.in_flight, "drain_s": round(time.monotonic() - begin, 3)})

    def _accept_backlog(self, listener: socket.socket) -> None:
        before = -1
        while before != self.nr_conns:
            before = self.nr_conns
            self.accept(listener)
