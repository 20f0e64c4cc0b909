"""Closed-loop load without any package: processes of threads that write and read HTTP on plain sockets.

A request that is only partly within the window counts for that part, so that few long requests are counted as well as
many short ones; the load begins before the window and goes on after it.
Every text is new: its first three words are a number in base `len(WORDS)`. `drive` starts this module once a process.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_LEAD_S = 1.5  # for the processes to start and connect
_POOL = 50_000  # words, of which texts are slices


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of equal size on a number of connections."""

    tokens: int  # a text, with the tokenizer's own
    texts: int  # a request
    connections: int

    @property
    def key(self) -> str:
        """Name it."""
        return f"{self.tokens}x{self.texts}x{self.connections}"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one process does; times are those of the system's monotonic clock."""

    port: int
    load: dict[str, int]
    connections: int
    words: int  # a text
    vocabulary: list[str]
    begin: float
    end: float
    until: float  # load goes on so long

    def share(self, sent: float, done: float) -> float:
        """Return which part of a request was within the window."""
        return max(0.0, min(done, self.end) - max(sent, self.begin)) / (done - sent)


class Window:
    """A load that is running; `begin` to `end` is what counts."""

    def __init__(
        self, port: int, load: Load, *, special: int, vocabulary: list[str], seconds: float, tail: float
    ) -> None:
        """Start the processes."""
        self.load = load
        count = max(1, min(8, (os.cpu_count() or 1) // 2, load.connections))
        around = self.around_s(seconds)
        self.begin = time.monotonic() + _LEAD_S + around
        self.end = self.begin + seconds
        self._until = self.end + max(tail, around)
        self._processes = []
        for index in range(count):
            share = load.connections // count + (index < load.connections % count)
            words = load.tokens - special
            plan = _Plan(port, asdict(load), share, words, vocabulary, self.begin, self.end, self._until)
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.gpu_load"],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps(asdict(plan)))
            process.stdin.close()
            self._processes.append(process)

    @staticmethod
    def around_s(seconds: float) -> float:
        """Return for how long load goes on before and after a window of *seconds*."""
        return max(2.0, seconds / 3)

    def result(self) -> dict[str, Any]:
        """Wait for the processes and add up what they counted."""
        parts = [json.loads(process.stdout.read()) for process in self._processes if process.stdout is not None]
        seconds = self.end - self.begin
        taken = sorted(taken for part in parts for taken in part["taken_s"])
        errors = [error for part in parts for error in part["errors"]]
        texts = sum(part["requests"] for part in parts) * self.load.texts / seconds
        return {
            "texts_per_s": texts,
            "tokens_per_s": texts * self.load.tokens,
            "p50_ms": 1000 * taken[len(taken) // 2] if taken else None,
            "p99_ms": 1000 * taken[int(0.99 * len(taken))] if taken else None,
            "finished": len(taken),
            "errors": len(errors),
            "first_error": errors[0] if errors else None,
            "driver_cores": sum(part["cpu_s"] for part in parts) / seconds,
            "driver_busiest": max(part["cpu_s"] for part in parts) / seconds,
        }

    def kill(self) -> None:
        """End what is left of the processes."""
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


class _Texts:
    """Bodies of requests, no text twice."""

    def __init__(self, plan: _Plan) -> None:
        self._vocabulary = plan.vocabulary
        self._words = plan.words
        self._chance = random.Random()
        self._numbers = itertools.count(self._chance.randrange(len(plan.vocabulary) ** 3))  # for all threads
        self._pool = self._chance.choices(plan.vocabulary, k=_POOL)

    def _text(self) -> str:
        count, size = next(self._numbers), len(self._vocabulary)
        number = [self._vocabulary[count // size**place % size] for place in range(3)]
        start = self._chance.randrange(_POOL - self._words)
        return " ".join(number + self._pool[start : start + self._words - 3])

    def request(self, texts: int) -> bytes:
        """Return one request, head and all."""
        inputs = '","'.join([self._text() for _ in range(texts)])
        body = f'{{"model":"model","encoding_format":"base64","input":["{inputs}"]}}'
        head = (
            f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        return f"{head}\r\n\r\n{body}".encode()


def exchange(connection: socket.socket, request: bytes) -> tuple[int, bytes]:
    """Send *request*; return status and body of the answer, which must tell its length."""
    connection.sendall(request)
    received = bytearray()
    while (split := received.find(b"\r\n\r\n")) < 0:
        received += _more(connection)
    head = bytes(received[:split]).lower()
    at = head.index(b"content-length:") + len(b"content-length:")
    length = int(head[at:].split(b"\r\n", 1)[0])
    while len(received) < split + 4 + length:
        received += _more(connection)
    return int(head[9:12]), bytes(received[split + 4 :])


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 20)
    if not data:
        raise ConnectionError("closed in the middle of an answer")
    return data


def _connection(plan: _Plan, texts: _Texts, requests: list[tuple[float, float]], errors: list[str]) -> None:
    size, tokens = plan.load["texts"], plan.load["tokens"]
    first = True
    try:
        with socket.create_connection(("127.0.0.1", plan.port), timeout=120) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while time.monotonic() < plan.until:
                request = texts.request(size)
                sent = time.monotonic()
                status, body = exchange(connection, request)
                done = time.monotonic()
                if status != 200:
                    errors.append(f"status {status}: {body[:200]!r}")
                    continue
                if first and (counted := json.loads(body)["usage"]["prompt_tokens"]) != size * tokens:
                    errors.append(f"{counted} tokens instead of {size * tokens}")
                first = False
                requests.append((sent, done))
    except (OSError, ValueError, KeyError) as exc:
        errors.append(repr(exc))


def main() -> None:
    """Do what the plan on standard input says and print what came of it."""
    plan = _Plan(**json.load(sys.stdin))
    requests: list[tuple[float, float]] = []  # when sent, when answered
    errors: list[str] = []
    texts = _Texts(plan)
    arguments = (plan, texts, requests, errors)
    threads = [threading.Thread(target=_connection, args=arguments, daemon=True) for _ in range(plan.connections)]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, plan.begin - time.monotonic()))
    before = time.process_time()
    time.sleep(max(0.0, plan.end - time.monotonic()))
    cpu_s = time.process_time() - before
    for thread in threads:
        thread.join(120)
    taken = [done - sent for sent, done in requests if plan.begin <= done < plan.end]
    counted = sum(plan.share(sent, done) for sent, done in requests)
    print(json.dumps({"taken_s": taken, "requests": counted, "errors": errors, "cpu_s": cpu_s}))


if __name__ == "__main__":
    main()
