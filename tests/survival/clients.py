"""A client that asks for everything, breaks off half of it, and checks every vector that it gets."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tests.survival.connection import Answer, Connection, vectors_of
from tests.survival.corpus import Corpus
from tests.survival.load import post

_OVER_LIMIT = 9 << 20


@dataclass(frozen=True, slots=True)
class Wrong:
    """Something that must not happen."""

    kind: str  # vector or answer
    said: str


class Client:
    """One of many; what it does comes by chance from *seed*."""

    def __init__(self, port: int, corpus: Corpus, *, seed: int) -> None:
        """Ask the server at *port* for texts of *corpus*."""
        self._port = port
        self._corpus = corpus
        self._rng = random.Random(seed)
        self._connection: Connection | None = None
        self._sent = 0
        self.seed = seed
        self.counts: Counter[str] = Counter()
        self.wrong: list[Wrong] = []
        self._actions: list[tuple[int, str, Callable[[], None]]] = [
            (30, "single", self._single),
            (12, "batch", self._batch),
            (8, "token ids", self._token_ids),
            (5, "chunked", self._chunked),
            (4, "pipelined", self._pipelined),
            (3, "half-closed", self._half_closed),
            (3, "in pieces", self._in_pieces),
            (10, "refused", self._refused),
            (3, "oversize", self._oversize),
            (3, "no HTTP", self._no_http),
            (8, "disconnected", self._disconnected),
            (5, "aborted in the answer", self._aborted_in_the_answer),
        ]

    def run(self, *, until: float) -> None:
        """Act until then (monotonic seconds)."""
        weights = [weight for weight, _, _ in self._actions]
        while time.monotonic() < until:
            _, name, act = self._rng.choices(self._actions, weights)[0]
            self.counts[name] += 1
            try:
                act()
            except (OSError, ValueError, KeyError) as error:
                self._note("answer", f"{name}: {type(error).__name__}: {error}")
                self._connection = None
        self._leave()

    def _note(self, kind: str, said: str) -> None:
        self.wrong.append(Wrong(kind, said))

    def _open(self) -> Connection:
        """Use the connection again, or now and then a new one."""
        if self._connection is not None and self._rng.random() < 0.1:
            self._leave()
        if self._connection is None:
            self._connection = Connection(self._port)
        return self._connection

    def _leave(self) -> None:
        if self._connection is not None:
            if self._connection.has_more():
                self._note("answer", "bytes that belong to no request")
            self._connection.socket.close()
            self._connection = None

    def _id(self) -> str:
        self._sent += 1
        return f"{self.seed}-{self._sent}"

    def _positions(self, count: int) -> list[int]:
        return self._rng.choices(range(len(self._corpus.texts)), k=count)

    def _build(self, positions: list[int], sent: str, *, inputs: Any = None) -> tuple[bytes, str]:
        """Build a request for the texts at *positions*; also say how its numbers come."""
        encoding = self._rng.choice(["float", "base64", "bytes_only"])
        texts = [self._corpus.texts[position] for position in positions]
        content = {"input": inputs or (texts[0] if len(texts) == 1 else texts), "encoding_format": encoding}
        return post(json.dumps(content).encode(), f"X-Request-Id: {sent}"), encoding

    def _check(self, answer: Answer, positions: list[int], sent: str, encoding: str) -> None:
        """Compare one answer with what was asked."""
        if answer.status != 200 or answer.headers.get("x-request-id") != sent:
            self._note("answer", f"{answer.status} with id {answer.headers.get('x-request-id')} for {sent}")
            return
        vectors = vectors_of(answer.body, encoding)
        self.counts["vectors"] += len(positions)
        self._note_vectors(self._corpus.differ(vectors, positions), sent)

    def _note_vectors(self, differing: int, sent: str) -> None:
        for _ in range(differing):
            self._note("vector", f"wrong vector in {sent}")

    def _ask(self, positions: list[int], *, inputs: Any = None) -> None:
        sent = self._id()
        request, encoding = self._build(positions, sent, inputs=inputs)
        connection = self._open()
        connection.socket.sendall(request)
        self._check(connection.answer(), positions, sent, encoding)

    def _single(self) -> None:
        self._ask(self._positions(1))

    def _batch(self) -> None:
        self._ask(self._positions(self._rng.choice([8, 32])))

    def _token_ids(self) -> None:
        positions = self._positions(self._rng.choice([1, 8]))
        self._ask(positions, inputs=[self._corpus.token_ids[position] for position in positions])

    def _chunked(self) -> None:
        positions, sent = self._positions(4), self._id()
        request, encoding = self._build(positions, sent)
        head, _, body = request.partition(b"\r\n\r\n")
        head = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
        size = self._rng.randint(1, len(body))
        pieces = [body[start : start + size] for start in range(0, len(body), size)][:2000]
        pieces[-1] += body[size * len(pieces) :]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        connection = self._open()
        connection.socket.sendall(head + b"\r\n\r\n" + chunks + b"0\r\n\r\n")
        self._check(connection.answer(), positions, sent, encoding)

    def _pipelined(self) -> None:
        asked = [(self._positions(self._rng.randint(1, 3)), self._id()) for _ in range(5)]
        built = [self._build(positions, sent) for positions, sent in asked]
        connection = self._open()
        connection.socket.sendall(b"".join(request for request, _ in built))
        for (positions, sent), (_, encoding) in zip(asked, built, strict=True):
            self._check(connection.answer(), positions, sent, encoding)

    def _half_closed(self) -> None:
        self._leave()
        positions, sent = self._positions(2), self._id()
        request, encoding = self._build(positions, sent)
        connection = Connection(self._port)
        connection.socket.sendall(request)
        connection.socket.shutdown(socket.SHUT_WR)
        self._check(connection.answer(), positions, sent, encoding)
        if connection.socket.recv(1):
            self._note("answer", "bytes behind the last answer")
        connection.socket.close()

    def _in_pieces(self) -> None:
        positions, sent = self._positions(2), self._id()
        request, encoding = self._build(positions, sent)
        connection = self._open()
        cuts = [0, *sorted(self._rng.sample(range(1, len(request)), 5)), len(request)]
        for start, end in pairwise(cuts):
            connection.socket.sendall(request[start:end])
            time.sleep(0.01)
        self._check(connection.answer(), positions, sent, encoding)

    def _refused(self) -> None:
        bodies: list[tuple[bytes, int]] = [
            (b'{"input": ', 400),
            (b'{"input": "\xff"}', 400),
            (b'{"input": NaN}', 400),
            (b'{"input": []}', 400),
            (b'{"messages": [{"role": "user", "content": "a"}]}', 400),
            (b'{"input": "a", "model": "nobody"}', 404),
            (json.dumps({"input": "long " * 2000}).encode(), 400),
            (json.dumps({"input": [10**6]}).encode(), 400),
            (b"[" * 20_000, 400),
        ]
        body, status = self._rng.choice(bodies)
        connection = self._open()
        connection.socket.sendall(post(body))
        answer = connection.answer()
        if answer.status != status or set(json.loads(answer.body)["error"]) != {"message", "type", "param", "code"}:
            self._note("answer", f"{answer.status} for {body[:40]!r}")

    def _oversize(self) -> None:
        """More than is taken: by its length alone, whole, or in chunks."""
        self._leave()
        connection = Connection(self._port)
        head = post(b"").replace(b"Content-Length: 0", b"Content-Length: %d" % _OVER_LIMIT)
        kind = self._rng.randrange(3)
        if kind == 2:
            head = head.replace(b"Content-Length: %d" % _OVER_LIMIT, b"Transfer-Encoding: chunked")
        connection.socket.sendall(head)
        if kind:
            chunk = b"x" * (1 << 20)
            with contextlib.suppress(ConnectionError):  # the answer may come before the end
                for _ in range(10):
                    connection.socket.sendall(chunk if kind == 1 else b"100000\r\n" + chunk + b"\r\n")
        if (answer := connection.answer()).status != 413:
            self._note("answer", f"{answer.status} for a body over the limit")
        connection.socket.close()

    def _no_http(self) -> None:
        self._leave()
        connection = Connection(self._port)
        junk = [
            b"\x16\x03\x01\r\n\r\n",
            b"GET / HTTP/9\r\n\r\n",
            b"POST / HTTP/1.1\r\nX\r\n\r\n",
            b"\0" * 100 + b"\r\n\r\n",
        ]
        connection.socket.sendall(self._rng.choice(junk))
        if not 400 <= (answer := connection.answer()).status < 500:
            self._note("answer", f"{answer.status} for what is no HTTP")
        connection.socket.close()

    def _disconnected(self) -> None:
        """Leave somewhere in the request, or right behind it."""
        connection = Connection(self._port)
        request, _ = self._build(self._positions(self._rng.choice([1, 32])), self._id())
        connection.socket.sendall(request[: self._rng.choice([0, 10, len(request) // 2, len(request)])])
        if self._rng.random() < 0.5:
            connection.reset()
        else:
            connection.socket.close()

    def _aborted_in_the_answer(self) -> None:
        connection = Connection(self._port)
        request, _ = self._build(self._positions(64), self._id())
        connection.socket.sendall(request)
        connection.socket.recv(100)
        connection.reset()
