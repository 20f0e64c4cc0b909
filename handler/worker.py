"""gunicorn's threaded worker, mended where it would fail a public embedding server.

- Bytes of a request are collected in the main loop until it is complete. A slow or silent sender therefore costs
  memory, of which there is a limit, and never a thread. The same holds for slow readers.
- Small requests take turns in the main loop's thread: one goes on while others wait for the engine.
  Large ones, and those that come while the model loads, get a thread each.
- While every slot is taken the main loop refuses by itself, so that refusing costs little.
- Where connections or file descriptors run out, those that do nothing make room.
- On SIGTERM connections are still accepted and answered 503 while admitted requests finish; then the socket closes.
Source: gunicorn 27.0.1, gunicorn/workers/gthread.py.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from concurrent.futures import Future
from io import BytesIO
from typing import Any

from gunicorn import util
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, ThreadWorker

from handler.connections import ClientSocket, Connection, unreadable
from handler.errors import InternalError, OverloadedError, ServiceError, ShuttingDownError
from handler.incoming import Incoming, raise_descriptor_limit
from handler.lifecycle import Lifecycle
from handler.logs import current_request, where
from handler.outgoing import Idle, Lingering, Outgoing, Room
from handler.refusals import Ledger, asked, asks_pharia, http_date, refusal, sheddable_path
from handler.strands import Hub, Lull, Poller, Threads

SPARE_THREADS = 16  # beyond the slots: health, models, and errors while every slot is taken
_OTHER_THREADS = 8  # of the spare ones, never taken by requests for embeddings

log = logging.getLogger(__name__)

_SILENT_LINGER_S = 0.5  # in a drain, for the first byte on a new connection
_BEGUN_LINGER_S = 2.0  # for the rest of a request, which is refused in any case
_NOTIFY_S = 1.0
_SHEDDING_PAUSE_S = 0.015  # while requests are refused for want of a slot, unless the engine finishes one before
_ACCEPT_S = 0.01  # the longest that connections are accepted in one round of the main loop
# The same where the rounds before have left some in the backlog. The rest of a round takes some 20 ms while every slot
# is taken: were accepting always shorter, a flood would fill the backlog, and its clients wait or give up.
_LONG_ACCEPT_S = 0.04
_NO_ROOM_S = 0.05  # until accepting is tried again where the system has refused, unless room was made


class ErrorLogger(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's log without its access log, for which it would gather ninety values of every request."""

    access_log_enabled = False


class EmbeddingWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """One process, one engine."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start with nothing to do."""
        super().__init__(*args, **kwargs)
        self._embedding = 0  # requests for embeddings that are with threads
        self._notified = 0.0
        self._shedding = False  # in this round of the main loop
        self._more_wait = False  # in the backlog, after this round
        self._accept_s = _ACCEPT_S
        self._accept_from = 0.0  # when the system, having refused a connection, is asked again

    def get_thread_pool(self) -> Threads:
        """Make the threads of large requests; called by gunicorn."""
        return Threads(self.cfg.threads)

    def accept(self, listener: socket.socket) -> None:
        """Accept who waits in the backlog, as many as there is room and time for in one round."""
        end = time.monotonic() + self._accept_s
        while self.nr_conns < self.worker_connections and self._accept_one(listener):
            if time.monotonic() > end:
                self._more_wait = True
                return

    def _accept_one(self, listener: socket.socket) -> bool:
        """Accept a connection and take its request, if it is there already; False where nobody waits."""
        try:
            client, address = listener.accept()
        except ConnectionAbortedError:
            return True
        except BlockingIOError:
            return False
        except OSError as exc:  # no descriptor or no memory is left: whoever waits in the backlog stays there
            self._accept_from = time.monotonic() + _NO_ROOM_S
            log.warning("connection_not_accepted", extra={"error": exc.strerror, "connections": self.nr_conns})
            return False
        self.nr_conns += 1
        sock, server = ClientSocket.adopt(client), self._addresses[listener]
        conn = Connection(self.cfg, sock, address, server, limit=self._max_body_bytes, linger=self._lingering.add)
        self._incoming.receive(conn)
        return True

    def _hand_on(self, conn: Connection) -> None:
        """Handle a complete request, unless it would find no slot."""
        path = sheddable_path(conn.received) if self._sheds else None
        if path is not None and (error := self._busy()) is not None and not conn.frame.cut_short:
            self._shed(conn, path, error)
            return
        conn.take_request()
        if conn.is_small and self._lifecycle.model is not None:  # a strand cannot wait for the model
            self._hub.start(lambda: self._finish(conn, kept=bool(self.handle(conn))))
            return
        conn.embeds = path is not None
        self._embedding += conn.embeds
        conn.ignore()  # whatever the thread does to it
        self.enqueue_req(conn)

    def _busy(self) -> ServiceError | None:
        """Say why a request for embeddings cannot be taken now; some threads are left for what else is large."""
        if self._embedding >= self.cfg.threads - _OTHER_THREADS:
            return self._lifecycle.closed() or OverloadedError("too many requests are being answered; try again")
        return self._lifecycle.overload()

    def _shed(self, conn: Connection, path: str, error: ServiceError) -> None:
        """Refuse without a thread; the connection goes on, unless this process does not."""
        told, closes = asked(conn.received)
        closes |= not self.alive
        conn.take_request()
        self._shedding = True
        self._lull.begin()  # nothing comes before a slot is free, so the engine has nothing to wait for
        self._ledger.note(error, request_id=told, path=path)
        conn.sock.unsent.append(memoryview(refusal(error, request_id=told, close=closes)))
        try:
            conn.sock.send_now()
        except OSError:
            closes = True
        self._finish(conn, kept=not closes)

    def _refuse(self, conn: Connection, error: ServiceError) -> None:
        """Answer without a thread and close."""
        self._tell(conn.sock, error, asked(conn.received).request_id, pharia=asks_pharia(conn.received))
        self._close(conn, graceful=True)

    def _tell(self, client: ClientSocket, error: ServiceError, told: str, *, pharia: bool = False) -> None:
        self._ledger.note(error, request_id=told, path=None, pharia=pharia)
        client.try_send(refusal(error, request_id=told, pharia=pharia))

    def _close(self, conn: Connection, *, graceful: bool = False) -> None:
        self.nr_conns -= 1
        conn.close(graceful=graceful)

    def handle(self, conn: Connection) -> Any:
        """Handle one request, in a strand or a thread."""
        current_request.set(None)  # the thread's last request is over
        kept = super().handle(conn)
        try:
            conn.sock.flush()
        except OSError:
            return False
        return kept

    def handle_request(self, req: Any, conn: Connection) -> Any:
        """Hand on the body, which is in memory; close where it was not received, for what comes next is that body."""
        if conn.cut_short:
            req.force_close()
        req.body = BytesIO(conn.parser.unreader.take_buffered())  # gunicorn's own reads it by the kilobyte
        req._expected_100_continue = False  # noqa: SLF001 - said already, where it is to be said, before the body came
        return super().handle_request(req, conn)

    def _keepalive_after(self, conn: Connection, keepalive: Any) -> bool:  # noqa: ARG002 - gunicorn's signature
        """Keep the connection as the answer said; what is left of the body lies in memory and is dropped there."""
        return bool(keepalive)

    def finish_request(self, conn: Connection, fs: Future[Any]) -> None:
        """Go on with a connection whose request a thread has handled; called in the main loop."""
        self._embedding -= conn.embeds
        self._finish(conn, kept=fs.exception() is None and bool(fs.result()))

    def _finish(self, conn: Connection, *, kept: bool) -> None:
        """Write the rest of the answer, then wait for the next request or close."""
        conn.kept = kept
        conn.forget_request()
        if conn.sock.unsent and conn.sock.fileno() >= 0:
            self._outgoing.add(conn)
        else:
            self._answered(conn, whole=True)

    def _answered(self, conn: Connection, *, whole: bool) -> None:
        if not (whole and conn.kept):
            self._close(conn, graceful=whole)
        elif conn.received:  # the next request, or its beginning; by the queue, for there may be hundreds
            self.method_queue.defer(self._incoming.advance, conn)
        else:
            self._idle.add(conn, self.cfg.keepalive if self.alive else STOP_KEEPALIVE_LINGER)

    def notify(self) -> None:
        """Tell the master of being alive, once a second instead of for every event."""
        now = time.monotonic()
        if now - self._notified >= _NOTIFY_S:
            self._notified = now
            super().notify()

    def handle_error(self, req: Any, client: ClientSocket, addr: Any, exc: Exception) -> None:  # noqa: ARG002 - gunicorn's
        """Answer what gunicorn cannot parse in the envelope; its own line in the log would quote headers."""
        error = unreadable(exc)
        told = asked(b"").request_id  # what the application has set, if it got that far
        if isinstance(error, InternalError):
            seen = {"request_id": told, "error": type(exc).__name__, "where": where(exc)}
            log.error("connection_failed", extra=seen)
        self._tell(client, error, told)

    def run(self) -> None:
        """Serve until told to stop, then drain."""
        raise_descriptor_limit()
        # gunicorn asks for some twenty settings in each request, and a method of it looks each up; attributes are free.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        util.http_date = http_date
        self._addresses = {listener: listener.getsockname() for listener in self.sockets}
        told = self.wsgi.extensions
        self._lifecycle: Lifecycle[Any] = told["lifecycle"]
        self._max_body_bytes: int = self.wsgi.config["MAX_CONTENT_LENGTH"]
        self._sheds: bool = told.get("sheds", True)
        self._lull: Lull = told.get("lull") or Lull()
        self._ledger = Ledger(told.get("refused"))
        self.poller = Poller(self._lull)
        self._hub = Hub(self.poller)
        self._incoming = Incoming(self.poller, whole=self._hand_on, refuse=self._refuse, gone=self._close)
        self._outgoing = Outgoing(self.poller, lambda conn, whole: self._answered(conn, whole=whole))
        # By the name that gunicorn counts them by, when it decides whether to keep one more.
        self._idle = self.keepalived_conns = Idle(self.poller, readable=self._incoming.receive, gone=self._close)
        self._lingering = Lingering(self.poller)
        self._room = Room(incoming=self._incoming, idle=self._idle, outgoing=self._outgoing, lingering=self._lingering)
        self.poller.register(self.method_queue.fileno(), selectors.EVENT_READ, self.method_queue.run_callbacks)
        self.set_accept_enabled(True)
        while self.alive and self.is_parent_alive():
            self._turn(1.0)
        self._drain()

    def _turn(self, timeout_s: float) -> None:
        """One round of the main loop."""
        self.notify()
        refused = self._accept_from > time.monotonic()
        self.set_accept_enabled(self.nr_conns < self.worker_connections and not refused)
        self._accept_s = min(2 * self._accept_s, _LONG_ACCEPT_S) if self._more_wait else _ACCEPT_S
        self._shedding = self._more_wait = False
        self.wait_for_and_dispatch_events(timeout=self._hub.sleep_s(_NO_ROOM_S if refused else timeout_s))
        self._expire()
        refused = self._accept_from > time.monotonic()
        if refused or self.nr_conns >= self.worker_connections:
            if self._room.make(of_descriptors=refused):
                self._accept_from = 0.0
        elif self._shedding and not self._more_wait and self._busy() is not None:
            # More comes at once; taken together it costs the engine fewer interruptions.
            self._hub.wait_bell(_SHEDDING_PAUSE_S)

    def _expire(self) -> None:
        """End what has had its time."""
        self._hub.expire()
        self._idle.expire()
        self._incoming.expire()
        self._outgoing.expire()
        self._lingering.expire()
        self._ledger.expire()

    def _drain(self) -> None:
        """Finish what was admitted, answer the rest 503, close.

        While the model loads there is nothing to finish: those who wait for it are told, and the process ends.
        """
        lifecycle = self._lifecycle
        longest_s = max(0.0, self.cfg.graceful_timeout - 2)
        if lifecycle.model is None:
            longest_s = min(longest_s, _BEGUN_LINGER_S) if lifecycle.in_flight else 0
        lifecycle.drain()
        begin = time.monotonic()
        self._idle.cap(STOP_KEEPALIVE_LINGER)
        deadline = begin + longest_s
        log.info("draining", extra={"in_flight": lifecycle.in_flight, "connections": self.nr_conns})
        while lifecycle.in_flight and time.monotonic() < deadline:
            self._turn(0.05)
        for listener in self.sockets:  # whoever is in the backlog is answered 503, whoever comes later is refused
            self._accept_backlog(listener)
        self.set_accept_enabled(False)
        for listener in self.sockets:
            listener.close()
        late = ShuttingDownError("the container is shutting down; try again")
        self._incoming.end(silent_s=_SILENT_LINGER_S, begun_s=_BEGUN_LINGER_S, error=late)
        while (self.nr_conns or self._lingering) and time.monotonic() < deadline:
            self.notify()
            self.wait_for_and_dispatch_events(timeout=0.05)
            self._expire()
        for finish in self.wsgi.extensions.get("on_stop", ()):
            finish()
        log.info("stopped", extra={"unanswered": lifecycle.in_flight, "drain_s": round(time.monotonic() - begin, 3)})

    def _accept_backlog(self, listener: socket.socket) -> None:
        """Accept everybody, as many as a backlog may hold, whatever room there is."""
        for _ in range(self.cfg.backlog):
            if not self._accept_one(listener):
                return
