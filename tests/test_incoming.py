from __future__ import annotations

import resource
import selectors
import socket
from collections.abc import Iterator
from unittest.mock import sentinel

import pytest
from gunicorn.config import Config

from handler import incoming
from handler.connections import ClientSocket, Connection
from handler.errors import OverloadedError, ServiceError, ShuttingDownError, SlowRequestError
from handler.incoming import Incoming, raise_descriptor_limit
from handler.outgoing import Lingering

HALF = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n12"


class Loop:
    """A main loop with one connection, and what became of it."""

    def __init__(self) -> None:
        """Wait for a request on it."""
        self.poller = selectors.DefaultSelector()
        self.incoming = Incoming(
            self.poller, whole=self.whole, refuse=self.refuse, gone=lambda _: self.seen.append("gone")
        )
        self.seen: list[object] = []
        ours, self.client = socket.socketpair()
        self.conn = Connection(
            Config(),
            ClientSocket.adopt(ours),
            sentinel.client,
            sentinel.server,
            limit=100,
            linger=Lingering(self.poller).add,
        )
        self.incoming.add(self.conn)

    def whole(self, conn: Connection) -> None:
        """Note a request."""
        self.seen.append(conn.frame.take(conn.received))

    def refuse(self, conn: Connection, error: ServiceError) -> None:
        """Note an error."""
        self.seen.append(type(error))

    def send(self, data: bytes) -> None:
        """Let *data* come."""
        self.client.sendall(data)
        for key, _ in self.poller.select(0):
            key.data(key.fileobj)

    def close(self) -> None:
        """Leave nothing open."""
        self.conn.sock.close()
        self.client.close()
        self.poller.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Wait for one connection's request."""
    loop = Loop()
    yield loop
    loop.close()


def test_a_request_is_handed_on_when_it_is_whole(loop: Loop) -> None:
    """And is then waited for no more: what comes while it is handled stays where it is."""
    loop.send(HALF)
    loop.incoming.receive(loop.conn)  # though nothing has come
    assert (loop.seen, len(loop.incoming)) == ([], 1)
    loop.send(b"345")
    assert (loop.seen, len(loop.incoming)) == ([HALF + b"345"], 0)
    loop.send(b"the next request")
    assert (loop.seen, len(loop.poller.get_map())) == ([HALF + b"345"], 0)
    assert loop.conn.sock.recv_now() == b"the next request"


def test_a_connection_that_stays_silent_meanwhile_needs_no_new_registration(loop: Loop) -> None:
    """Two system calls fewer for each request on it."""
    loop.send(HALF + b"345")
    (key,) = loop.poller.get_map().values()
    loop.incoming.add(loop.conn)
    assert list(loop.poller.get_map().values()) == [key]
    loop.send(HALF + b"678")
    assert loop.seen == [HALF + b"345", HALF + b"678"]


def test_a_client_that_waits_for_continue_is_told_once(loop: Loop) -> None:
    """At its head, not at each piece of the body."""
    loop.send(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    loop.send(b"1")
    loop.send(b"2")
    assert loop.client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(("sent", "outcome"), [(b"", "gone"), (HALF, SlowRequestError)])
def test_what_does_not_arrive_in_time(
    loop: Loop, sent: bytes, outcome: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """408 for half a request; whoever has sent nothing is not spoken to."""
    loop.send(sent)
    loop.incoming.expire()
    assert not loop.seen
    assert loop.incoming.drop_oldest(older_than_s=0)
    assert not loop.incoming.drop_oldest(older_than_s=0)
    monkeypatch.setattr(incoming, "_READ_TIMEOUT_S", 0)
    loop.incoming.add(loop.conn)
    loop.incoming.expire()
    assert loop.seen == [outcome, outcome]


def test_a_young_connection_is_left_alone(loop: Loop) -> None:
    """It is about to send."""
    assert not loop.incoming.drop_oldest(older_than_s=10)
    assert len(loop.incoming) == 1


def test_what_is_received_of_all_requests_has_a_limit(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever goes over it is refused; what has become a whole request counts no more."""
    monkeypatch.setattr(incoming, "_BUFFERED_BYTES", len(HALF) + 1)
    loop.send(HALF)
    loop.send(b"345")
    assert loop.seen.pop() == HALF + b"345"
    loop.client.sendall(HALF)
    loop.incoming.receive(loop.conn)  # as of a connection that was kept
    loop.send(b"3")
    assert (loop.seen, len(loop.incoming)) == ([], 1)
    loop.send(b"4")
    assert (loop.seen, len(loop.incoming)) == ([OverloadedError], 0)


def test_a_drain_waits_shortly_for_what_has_begun_and_more_shortly_for_the_rest(loop: Loop) -> None:
    """What has begun is told why it ends; what has not sent a byte is closed."""
    late = ShuttingDownError("stopping")
    loop.send(HALF)
    loop.incoming.end(silent_s=0, begun_s=60, error=late)
    loop.incoming.expire()
    assert not loop.seen
    loop.incoming.end(silent_s=0, begun_s=0, error=late)
    loop.incoming.expire()
    assert loop.seen == [ShuttingDownError]


def test_a_silent_connection_is_not_waited_for_in_a_drain(loop: Loop) -> None:
    """Load balancers open some ahead."""
    loop.incoming.add(loop.conn)
    loop.incoming.end(silent_s=0, begun_s=60, error=ShuttingDownError("stopping"))
    loop.incoming.expire()
    assert loop.seen == ["gone"]


@pytest.mark.parametrize("unread", [b"", b"what the client has not read makes the kernel reset the connection"])
def test_a_client_that_closes_is_gone(loop: Loop, unread: bytes) -> None:
    """Nothing of it stays."""
    loop.conn.sock.try_send(unread)
    loop.client.close()
    for key, _ in loop.poller.select(0):
        key.data(key.fileobj)
    assert (loop.seen, len(loop.incoming)) == (["gone"], 0)


@pytest.mark.parametrize(
    ("soft", "hard", "wanted"),
    [
        (1024, 2**20, 8192),
        (1024, resource.RLIM_INFINITY, 8192),
        (1024, 4096, 4096),
        (4096, 4096, None),
        (2**16, 2**20, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
    ],
)
def test_as_many_descriptors_are_taken_as_the_system_allows(
    soft: int, hard: int, wanted: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four for each connection at most; what is more already is left alone."""
    taken: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: taken.append(limits))
    raise_descriptor_limit()
    assert taken == ([] if wanted is None else [(wanted, hard)])
