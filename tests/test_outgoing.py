from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from unittest.mock import Mock, sentinel

import pytest
from gunicorn.config import Config

from handler import outgoing
from handler.connections import ClientSocket, Connection
from handler.incoming import Incoming
from handler.outgoing import Idle, Lingering, Outgoing, Room

ANSWER = b"x" * 4_000_000


@pytest.fixture
def poller() -> Iterator[selectors.BaseSelector]:
    """The main loop's."""
    with selectors.DefaultSelector() as poller:
        yield poller


def connected(poller: selectors.BaseSelector) -> tuple[Connection, socket.socket]:
    """Make a connection and its client's end."""
    ours, theirs = socket.socketpair()
    conn = Connection(
        Config(), ClientSocket.adopt(ours), sentinel.client, sentinel.server, limit=1, linger=Lingering(poller).add
    )
    return conn, theirs


@pytest.fixture
def pair(poller: selectors.BaseSelector) -> Iterator[tuple[Connection, socket.socket]]:
    """A connection with an answer that its client, the other end, has not read."""
    conn, theirs = connected(poller)
    conn.sock.sendall(ANSWER)
    yield conn, theirs
    conn.sock.close()
    theirs.close()


def turn(poller: selectors.BaseSelector) -> None:
    """One round of the main loop."""
    for key, _ in poller.select(0):
        key.data(key.fileobj)


def test_an_answer_is_written_as_its_client_reads(
    pair: tuple[Connection, socket.socket], poller: selectors.BaseSelector
) -> None:
    """Whole, and then the connection is handed back."""
    conn, client = pair
    done: list[tuple[Connection, bool]] = []
    out = Outgoing(poller, lambda *told: done.append(told))
    out.add(conn)
    received = 0
    while not done:
        turn(poller)
        received += len(client.recv(1 << 20))
    client.settimeout(0)
    while received < len(ANSWER):
        received += len(client.recv(1 << 20))
    assert (done, received, len(out), len(poller.get_map())) == ([(conn, True)], len(ANSWER), 0, 0)


@pytest.mark.parametrize("limit", ["_TAKE_S", "_UNSENT_BYTES"])
def test_a_client_that_takes_too_long_or_too_much_is_given_up(
    pair: tuple[Connection, socket.socket],
    poller: selectors.BaseSelector,
    limit: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its answer is dropped."""
    done: list[tuple[Connection, bool]] = []
    out = Outgoing(poller, lambda *told: done.append(told))
    out.add(pair[0])
    out.expire()
    assert not done
    out.drop_oldest()
    monkeypatch.setattr(outgoing, limit, 0)
    pair[0].sock.sendall(ANSWER)
    out.add(pair[0])
    out.expire()
    assert done == [(pair[0], False)] * 2
    assert not pair[0].sock.unsent


def test_a_client_that_goes_away_is_given_up(
    pair: tuple[Connection, socket.socket], poller: selectors.BaseSelector
) -> None:
    """At once."""
    done: list[bool] = []
    Outgoing(poller, lambda _, whole: done.append(whole)).add(pair[0])
    pair[1].close()
    turn(poller)
    assert done == [False]


def test_an_idle_connection_goes_on_or_is_given_up(
    pair: tuple[Connection, socket.socket], poller: selectors.BaseSelector
) -> None:
    """When its client sends, when its time is over, which a drain cuts short, or when it has to make room."""
    conn, client = pair
    told: list[str] = []
    idle = Idle(poller, readable=lambda _: told.append("readable"), gone=lambda _: told.append("gone"))
    idle.add(conn, 60)
    turn(poller)
    idle.expire()
    assert (told, len(idle)) == ([], 1)
    client.sendall(b"next")
    turn(poller)
    assert (told, len(idle)) == (["readable"], 0)
    idle.add(conn, 60)
    idle.cap(0)
    idle.expire()
    idle.add(conn, 60)
    idle.drop_oldest()
    assert (told, len(idle)) == (["readable", "gone", "gone"], 0)


def test_a_lingering_client_may_go_on_sending_for_a_while(
    pair: tuple[Connection, socket.socket], poller: selectors.BaseSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it sends is dropped; when it is silent too long or closes, so does the server."""
    conn, client = pair
    lingering = Lingering(poller)
    lingering.add(conn)
    client.sendall(b"more")
    turn(poller)
    lingering.expire()
    assert len(lingering) == 1
    monkeypatch.setattr(outgoing, "_LINGER_S", 0)
    client.sendall(b"more")
    turn(poller)
    lingering.expire()
    assert len(lingering) == 0
    monkeypatch.setattr(ClientSocket, "shutdown", Mock(side_effect=OSError))
    for other, theirs in (pair, connected(poller)):  # one is closed already
        lingering.add(other)
        assert (len(lingering), other.sock.fileno()) == (0, -1)
        theirs.close()


def test_a_lingering_client_may_reset_its_connection(poller: selectors.BaseSelector) -> None:
    """As the kernel does for those that have not read everything."""
    conn, client = connected(poller)
    conn.sock.try_send(b"unread")
    lingering = Lingering(poller)
    lingering.add(conn)
    client.close()
    turn(poller)
    assert (len(lingering), conn.sock.fileno()) == (0, -1)


def test_lingering_clients_have_a_limit(poller: selectors.BaseSelector, monkeypatch: pytest.MonkeyPatch) -> None:
    """They count as closed and keep a descriptor each; the oldest makes room."""
    monkeypatch.setattr(outgoing, "_MOST_LINGERING", 2)
    lingering = Lingering(poller)
    pairs = [connected(poller) for _ in range(3)]
    for conn, _ in pairs:
        lingering.add(conn)
    assert len(lingering) == 2
    assert [conn.sock.fileno() < 0 for conn, _ in pairs] == [True, False, False]
    for conn, client in pairs:
        conn.close()
        client.close()


def test_room_is_made_by_those_that_no_request_is_worked_on_for(
    pair: tuple[Connection, socket.socket], poller: selectors.BaseSelector
) -> None:
    """Lingering ones if they help, then idle ones, and only then who has just connected or reads an answer."""
    gone: list[Connection] = []
    room = Room(
        incoming=Incoming(poller, whole=gone.append, refuse=lambda *_: None, gone=gone.append),
        idle=Idle(poller, readable=gone.append, gone=gone.append),
        outgoing=Outgoing(poller, lambda conn, _: gone.append(conn)),
        lingering=Lingering(poller),
    )
    pairs = [connected(poller) for _ in range(3)]
    left, quiet, young = (conn for conn, _ in pairs)
    room.lingering.add(left)
    assert not room.make(of_descriptors=False)
    assert room.make(of_descriptors=True)
    assert left.sock.fileno() < 0
    room.outgoing.add(pair[0])
    room.incoming.add(young)
    room.idle.add(quiet, 60)
    for others in ([quiet], [quiet, young], [quiet, young, pair[0]]):
        assert room.make(of_descriptors=True)
        assert gone == others
    assert not room.make(of_descriptors=True)
    for conn, client in pairs:
        conn.close()
        client.close()
