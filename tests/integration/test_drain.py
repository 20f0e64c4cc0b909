"""SIGTERM: what was admitted is answered, the rest is told, and the end comes in time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.forked import ForkedServer
from tests.server import Server, wait_for


def test_sigterm_while_loading_ends_at_once() -> None:
    """There is nothing to finish."""
    with Server() as server:
        wait_for(lambda: server.status("/health") == 200)
        time.sleep(1)
        begin = time.monotonic()
        server.terminate()
        assert server.wait_exit(10) == 0
        assert time.monotonic() - begin < 3


def test_sigterm_while_loading_tells_those_who_wait_for_the_model() -> None:
    """They hold slots, and get 503 instead of a connection that is closed without a word."""
    with Server(EMBED_COLD_START_WAIT_S="60") as server, ThreadPoolExecutor(64) as clients:
        wait_for(lambda: server.events("loading"))
        wait_for(lambda: server.status("/health") == 200)
        waiting = [clients.submit(server.embed, input="a") for _ in range(64)]
        wait_for(lambda: httpx.get(f"{server.url}/health").json()["in_flight"] == 64)
        server.terminate()
        responses = [future.result() for future in waiting]
        assert server.wait_exit(10) == 0
        assert server.events("stopped")[0]["unanswered"] == 0
    assert {response.status_code for response in responses} == {503}
    assert {response.json()["error"]["code"] for response in responses} == {"shutting_down"}


def test_sigterm_under_load_loses_nothing() -> None:
    """Every request is answered 200 or 503 or its connection is refused; admitted = answered; exit code 0."""
    outcomes: list[int | str] = []
    stop = threading.Event()

    def ask(server: Server) -> None:
        while not stop.is_set():
            try:
                outcomes.append(server.embed(input=["some text of moderate length"] * 4).status_code)
            except httpx.ConnectError:
                outcomes.append("refused")
                return
            except httpx.TransportError as problem:
                outcomes.append(type(problem).__name__)

    with ForkedServer() as server, ThreadPoolExecutor(16) as clients:
        server.wait_ready()
        for _ in range(16):
            clients.submit(ask, server)
        time.sleep(3)
        server.terminate()
        code = server.wait_exit(15)
        stop.set()
        answered = [
            event for event in server.events("request") if event["status"] == 200 and event["route"] == "/v1/embeddings"
        ]
        assert server.events("stopped")[0]["unanswered"] == 0
    counts: dict[Any, int] = {outcome: outcomes.count(outcome) for outcome in set(outcomes)}
    print(counts)
    assert code == 0
    assert counts[200] == len(answered) > 20
    assert set(counts) <= {200, 503, "refused"}


def test_the_drain_has_an_end() -> None:
    """What does not finish in the drain time is cut off; the exit code is still 0."""
    with ForkedServer(EMBED_DRAIN_TIMEOUT_S="1", EMBED_MAX_INPUTS="4096") as server, ThreadPoolExecutor(1) as clients:
        server.wait_ready()
        future = clients.submit(server.embed, input=["word " * 250] * 2000)
        wait_for(lambda: httpx.get(f"{server.url}/health").json()["in_flight"] == 1)
        begin = time.monotonic()
        server.terminate()
        assert server.wait_exit(15) == 0
        assert time.monotonic() - begin < 6
        assert isinstance(future.exception(), httpx.TransportError)
