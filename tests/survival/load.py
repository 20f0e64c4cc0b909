"""Clients in processes of their own, and what the server's process holds meanwhile.

The two cores are the server's too, so a client does as little as it can: its bytes are ready before the clock runs,
there is one callback per answer, and nothing is parsed but the status and the length.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import psutil

from tests.bench.wrk import WORDS
from tests.server import Server

ANSWER_S = 30.0  # the longest that an answer is waited for
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_PROBE_EVERY_S = 0.02


def post(body: bytes, *headers: str, path: str = "/v1/embeddings") -> bytes:
    """Build a whole request."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def texts(rng: random.Random, count: int, words: int) -> list[str]:
    """Make texts that nobody has seen before."""
    return [f"{rng.randrange(10**9)} " + " ".join(rng.choices(WORDS, k=words)) for _ in range(count)]


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
        """Requests answered 200, per second."""
        return self.statuses["200"] / self.seconds


class _Client(asyncio.Protocol):
    """One connection; `note` gets each answer's status."""

    def __init__(self, note: Callable[[_Client, str], None]) -> None:
        self._note = note
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: bytes) -> None:
        """Ask."""
        assert self._transport is not None
        self.busy = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Collect one answer."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        length = _LENGTH.search(self._received, 0, end) if end >= 0 else None
        if length is None or len(self._received) < end + 4 + int(length[1]):
            return
        status = self._received[9:12].decode()
        if status in ("429", "503") and b"retry-after: " not in bytes(self._received[:end]).lower():
            status += " without Retry-After"
        self._received.clear()
        self.busy = False
        self._note(self, status)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note an answer that never came."""
        if self.busy:
            self.busy = False
            self._note(self, type(exc).__name__ if exc else "closed without an answer")

    @property
    def open(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """Leave."""
        if self._transport is not None:
            self._transport.close()


def closed_loop(port: int, *, clients: int, seconds: float, seed: int) -> Outcome:
    """Ask on *clients* connections, each as soon as it has its answer."""
    return asyncio.run(_closed_loop(port, clients, seconds, seed))


async def _closed_loop(port: int, clients: int, seconds: float, seed: int) -> Outcome:
    requests, outcome = short_requests(seed), Outcome()
    loop = asyncio.get_running_loop()
    begin = time.monotonic()

    def note(client: _Client, status: str) -> None:
        outcome.statuses[status] += 1
        outcome.sent += 1
        if time.monotonic() - begin < seconds and client.open:
            client.send(requests[outcome.sent % len(requests)])

    connections = [(await loop.create_connection(lambda: _Client(note), "127.0.0.1", port))[1] for _ in range(clients)]
    for index, client in enumerate(connections):
        client.send(requests[index])
    await asyncio.sleep(seconds)
    outcome.seconds = time.monotonic() - begin
    for client in connections:
        client.busy = False
        client.close()
    return outcome


def open_loop(port: int, *, rate: float, seconds: float, seed: int) -> Outcome:
    """Send *rate* requests per second at random times, whatever comes back; every other one on a new connection."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    outcome = asyncio.run(_open_loop(port, rate, seconds, seed))
    after = resource.getrusage(resource.RUSAGE_SELF)
    outcome.cpu_share = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / seconds
    return outcome


class _Arrivals:
    """Requests that are sent when they are due."""

    def __init__(self, port: int, *, seed: int, end: float) -> None:
        self._port = port
        self._requests = short_requests(seed)
        self._end = end
        self._idle: list[_Client] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self.outcome = Outcome()

    def arrive(self) -> None:
        """Send one request: on a new connection that is closed afterwards, or on a kept-alive one."""
        self.outcome.sent += 1
        request = self._requests[self.outcome.sent % len(self._requests)]
        keep = bool(self.outcome.sent % 2)
        while keep and self._idle:
            client = self._idle.pop()
            if client.open:
                client.send(request)
                return
        task = asyncio.get_running_loop().create_task(self._connect(request, self._keep if keep else self._drop))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, request: bytes, then: Callable[[_Client, str], None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, client = await loop.create_connection(lambda: _Client(then), "127.0.0.1", self._port)
        except OSError as error:
            self.outcome.statuses[type(error).__name__] += 1
        else:
            client.send(request)

    def _keep(self, client: _Client, status: str) -> None:
        self._note(status)
        if client.open:
            self._idle.append(client)

    def _drop(self, client: _Client, status: str) -> None:
        self._note(status)
        client.close()

    def _note(self, status: str) -> None:
        self.outcome.statuses[status] += 1
        self.outcome.in_time += status == "200" and time.monotonic() < self._end


async def _open_loop(port: int, rate: float, seconds: float, seed: int) -> Outcome:
    rng, due = random.Random(seed), time.monotonic()
    end = due + seconds
    arrivals = _Arrivals(port, seed=seed, end=end)
    outcome = arrivals.outcome
    while (due := due + rng.expovariate(rate)) < end:
        if (early := due - time.monotonic()) > 0:
            await asyncio.sleep(early)
        arrivals.arrive()
    for _ in range(int(ANSWER_S / 0.05)):
        if outcome.statuses.total() == outcome.sent:
            break
        await asyncio.sleep(0.05)
    if missing := outcome.sent - outcome.statuses.total():
        outcome.statuses["no answer"] = missing
    outcome.seconds = seconds
    return outcome


def probe_health(port: int, *, seconds: float) -> tuple[list[float], list[float]]:
    """Ask /health every 20 ms; return the seconds of each answer, and how late this process itself was each time.

    It is scheduled before everybody else where the system allows: what a probe waits for a core is not the server's.
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    answers, late = [], []
    end = time.monotonic() + seconds
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while (due := time.monotonic() + _PROBE_EVERY_S) < end:
            time.sleep(_PROBE_EVERY_S)
            begin = time.monotonic()
            late.append(begin - due)
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            head = connection.recv(65536)
            answers.append(time.monotonic() - begin)
            assert head.startswith(b"HTTP/1.1 200"), head
    return answers, late


@dataclass(frozen=True, slots=True)
class Sample:
    """What the worker holds at one moment."""

    at: float  # monotonic seconds
    rss: int  # bytes
    threads: int
    descriptors: int


def visit_shapes(server: Server) -> None:
    """Embed batches of a hundred sizes: oneDNN compiles for each, and the heap meets large blocks."""
    for texts in range(1, 101):
        assert server.embed(input=["word " * 16] * texts).status_code == 200


class Watch:
    """Samples a process ten times a second while the context lasts."""

    def __init__(self, process: psutil.Process) -> None:
        """Look at *process*."""
        self._process = process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.samples: list[Sample] = []

    def look(self) -> Sample:
        """Take one sample now."""
        with self._process.oneshot():
            memory, threads = self._process.memory_info().rss, self._process.num_threads()
        return Sample(time.monotonic(), memory, threads, self._process.num_fds())

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self.samples.append(self.look())

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._stop.set()
        self._thread.join()

    def rss_mb(self, begin: float, end: float) -> list[float]:
        """Memory at each sample between two shares of the time, as 0.5 and 0.75."""
        count = len(self.samples)
        part = self.samples[int(begin * count) : max(int(end * count), int(begin * count) + 1)]
        return [sample.rss / 2**20 for sample in part]
