"""Clients that ask without a pause, and what became of each request."""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType
from typing import Self

import httpx

from tests.server import Server


class Load:
    """Load on a server; leaving the context stops it. Every request ends up in `outcomes`."""

    def __init__(self, server: Server, *, clients: int, route: str = "/v1/embeddings", inputs: int = 4) -> None:
        """Ask *route* for *inputs* texts a request, from *clients* threads."""
        self.outcomes: Counter[int | str] = Counter()
        self._url = server.url + route
        self._body = {"input": ["some text of moderate length"] * inputs}
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                outcome: int | str
                try:
                    outcome = client.post(self._url, json=self._body).status_code
                except httpx.ConnectError:
                    outcome = "refused"
                except httpx.TransportError as problem:
                    outcome = type(problem).__name__
                with self._lock:
                    self.outcomes[outcome] += 1
                if outcome == "refused":
                    return

    def __enter__(self) -> Self:
        """Start asking."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and wait for the answers that are under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
