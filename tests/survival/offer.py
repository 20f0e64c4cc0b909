"""Load that is offered: by clients who wait for their answers, and at random times by clients who do not.

The two cores are the server's too, so a client does as little as it can: its bytes are ready before the clock runs,
one loop over epoll serves all connections, and nothing is read of an answer but its status and its length.
"""

from __future__ import annotations

import errno
import json
import random
import re
import resource
import select
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.survival.load import ANSWER_S, post, texts

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")
_RETRY_AFTER = re.compile(rb"\r\nretry-after: \d")
_READ_BYTES = 64 * 1024
_TICK_S = 0.002  # of the clock: what is due within one is sent together, for to wake up costs as much as a request


def short_requests(seed: int, count: int = 2000) -> list[bytes]:
    """Make requests of one text each, as most clients send."""
    rng = random.Random(seed)
    bodies = ({"input": texts(rng, 1, 12)[0], "encoding_format": "base64"} for _ in range(count))
    return [post(json.dumps(body).encode()) for body in bodies]


@dataclass(slots=True)
class Outcome:
    """What came back of a load."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu_share: float = 0.0  # of one core, used by the client
    sent: int = 0
    in_time: int = 0  # answered 200 while requests still came

    @property
    def goodput(self) -> float:
        """Requests answered 200 while requests still came, per second."""
        return self.in_time / self.seconds


@dataclass(slots=True, eq=False)
class _Client:
    """One connection."""

    sock: socket.socket
    kept: bool  # for further requests
    request: bytes | None  # not sent yet, for the connection is not there yet
    received: bytes = b""
    busy: bool = True


class _Clients:
    """Connections to one port, and what came back on them."""

    def __init__(self, port: int, answered: Callable[[_Client], None]) -> None:
        self._address = ("127.0.0.1", port)
        self._answered = answered
        self._epoll = select.epoll()
        self._open: dict[int, _Client] = {}
        self.statuses: Counter[str] = Counter()

    def connect(self, request: bytes, *, kept: bool) -> None:
        """Ask on a new connection; one for which no descriptor is left counts as an answer of its own kind."""
        try:
            sock = socket.socket()
        except OSError as error:
            self.statuses[f"not sent: {error.strerror}"] += 1
            return
        sock.setblocking(False)  # noqa: FBT003 - the signature of the standard library
        client = self._open[sock.fileno()] = _Client(sock, kept, request)
        there = sock.connect_ex(self._address)
        if there == 0:
            self._epoll.register(sock, select.EPOLLIN)
            self._connected(client)
        elif there == errno.EINPROGRESS:
            self._epoll.register(sock, select.EPOLLOUT)
        else:
            self._lost(client, errno.errorcode[there])

    def send(self, client: _Client, request: bytes) -> bool:
        """Ask on a connection that is there; False if the other side has closed it."""
        try:
            client.busy = client.sock.send(request) == len(request)
        except OSError:
            client.busy = False
        if not client.busy:
            self.close(client)
        return client.busy

    def poll(self, timeout_s: float) -> None:
        """Take what has come, after waiting for it."""
        for descriptor, events in self._epoll.poll(timeout_s):
            client = self._open[descriptor]
            if client.request is None:
                self._receive(client)
            elif events & select.EPOLLOUT and not client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._epoll.modify(descriptor, select.EPOLLIN)
                self._connected(client)
            else:
                self._lost(client, "not connected")

    def _connected(self, client: _Client) -> None:
        request, client.request = client.request, None
        assert request is not None
        if not self.send(client, request):
            self.statuses["closed before the request"] += 1

    def _receive(self, client: _Client) -> None:
        try:
            data = client.sock.recv(_READ_BYTES)
        except OSError as error:
            self._lost(client, type(error).__name__)
            return
        if not data:
            self._lost(client, "closed without an answer")
            return
        client.received += data
        status = _status(client.received)
        if status is None:
            return
        self.statuses[status] += 1
        client.received, client.busy = b"", False
        if not client.kept:
            self.close(client)
        self._answered(client)

    def _lost(self, client: _Client, why: str) -> None:
        self.close(client)
        if client.busy:
            self.statuses[why] += 1
            client.busy = False
            self._answered(client)

    def close(self, client: _Client) -> None:
        """Leave."""
        if self._open.pop(client.sock.fileno(), None) is not None:
            client.sock.close()

    def is_open(self, client: _Client) -> bool:
        """Whether another request can be sent."""
        return client.sock.fileno() >= 0

    def close_all(self) -> None:
        """Leave altogether."""
        for client in list(self._open.values()):
            self.close(client)
        self._epoll.close()


def _status(received: bytes) -> str | None:
    """Return the status of an answer, None if there is more of it to come."""
    end = received.find(b"\r\n\r\n")
    head = received[: end + 2].lower()
    length = _LENGTH.search(head)
    if length is None or len(received) < end + 4 + int(length[1]):
        return None
    status = received[9:12].decode()  # behind HTTP/1.1
    if status in ("429", "503") and not _RETRY_AFTER.search(head):
        return f"{status} without Retry-After"
    return status


def closed_loop(port: int, *, clients: int, seconds: float, seed: int) -> Outcome:
    """Ask on *clients* connections, each as soon as it has its answer."""
    requests, outcome = short_requests(seed), Outcome()

    def next_request() -> bytes:
        outcome.sent += 1
        return requests[outcome.sent % len(requests)]

    def again(client: _Client) -> None:
        if connections.is_open(client):
            connections.send(client, next_request())

    connections = _Clients(port, again)
    begin = time.monotonic()
    for _ in range(clients):
        connections.connect(next_request(), kept=True)
    while (left := begin + seconds - time.monotonic()) > 0:
        connections.poll(left)
    outcome.seconds, outcome.statuses = seconds, connections.statuses
    outcome.in_time = outcome.statuses["200"]
    connections.close_all()
    return outcome


def open_loop(port: int, *, rate: float, seconds: float, seed: int) -> Outcome:
    """Send *rate* requests per second at random times, whatever comes back; every other one on a new connection."""
    requests, outcome, rng = short_requests(seed), Outcome(seconds=seconds), random.Random(seed)
    idle: list[_Client] = []

    def put_aside(client: _Client) -> None:
        if connections.is_open(client):
            idle.append(client)

    def arrive() -> None:
        outcome.sent += 1
        request, kept = requests[outcome.sent % len(requests)], bool(outcome.sent % 2)
        while kept and idle:
            if connections.is_open(client := idle.pop()) and connections.send(client, request):
                return
        connections.connect(request, kept=kept)

    connections = _Clients(port, put_aside)
    before, due = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    end = due + seconds
    while (due := due + rng.expovariate(rate)) < end:
        while due > time.monotonic():
            time.sleep(_TICK_S)
            connections.poll(0)
        arrive()
    outcome.in_time = connections.statuses["200"]
    after = resource.getrusage(resource.RUSAGE_SELF)
    outcome.cpu_share = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / seconds
    last = time.monotonic() + ANSWER_S
    while connections.statuses.total() < outcome.sent and time.monotonic() < last:
        connections.poll(0.05)
    outcome.statuses = connections.statuses
    if missing := outcome.sent - outcome.statuses.total():
        outcome.statuses["no answer"] = missing
    connections.close_all()
    return outcome
