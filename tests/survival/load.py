"""Requests, a probe in a process of its own, and what the server's process holds meanwhile."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from dataclasses import dataclass
from typing import Self

import psutil

from tests.bench.wrk import WORDS
from tests.server import Server

ANSWER_S = 30.0  # the longest that an answer is waited for
_PROBE_EVERY_S = 0.02


def post(body: bytes, *headers: str, path: str = "/v1/embeddings") -> bytes:
    """Build a whole request."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def texts(rng: random.Random, count: int, words: int) -> list[str]:
    """Make texts that nobody has seen before."""
    return [f"{rng.randrange(10**9)} " + " ".join(rng.choices(WORDS, k=words)) for _ in range(count)]


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
