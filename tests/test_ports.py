from __future__ import annotations

import socket
import threading
import time
from typing import Any
from urllib.request import urlopen

import pytest

from handler.errors import StartError
from handler.lifecycle import Lifecycle
from handler.metrics import Metrics
from handler.ports import open_tcp_probes, serve_metrics
from tests.server import accepts, free_port, wait_for


def wait_until(port: int, *, accepting: bool) -> None:
    """Wait for the probe's thread to see the state."""
    wait_for(lambda: accepts(port) is accepting, timeout_s=10)


def test_a_probe_accepts_only_while_the_model_is_ready() -> None:
    """Refused before, accepted however often meanwhile, refused afterwards."""
    port = free_port()
    lifecycle: Lifecycle[str] = Lifecycle(slots=1)
    open_tcp_probes((port,), lifecycle)
    assert not accepts(port)
    lifecycle.ready("model")
    wait_until(port, accepting=True)
    assert all(accepts(port) for _ in range(200))
    lifecycle.drain()
    wait_until(port, accepting=False)


def test_a_probe_outlives_a_moment_without_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform would replace a container whose probe refuses."""
    port, failures = free_port(), [OSError(24, "Too many open files")] * 2
    accept = socket.socket.accept

    def failing(listener: socket.socket) -> tuple[socket.socket, Any]:
        if failures:
            raise failures.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", failing)
    lifecycle: Lifecycle[str] = Lifecycle(slots=1)
    open_tcp_probes((port,), lifecycle)
    lifecycle.ready("model")
    wait_until(port, accepting=True)
    while failures:
        time.sleep(0.02)
    assert accepts(port)
    lifecycle.drain()


def test_a_start_that_fails_never_accepts() -> None:
    """The probe tells the truth then too."""
    port = free_port()
    lifecycle: Lifecycle[str] = Lifecycle(slots=1)
    open_tcp_probes((port,), lifecycle)
    lifecycle.fail()
    time.sleep(0.1)
    assert not accepts(port)


def test_a_port_that_is_taken_is_named() -> None:
    """By its variable."""
    with socket.create_server(("0.0.0.0", 0)) as taken:  # noqa: S104 - as the server itself does
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"EMBED_TCP_PROBES: port {port}"):
            open_tcp_probes((port,), Lifecycle[str](slots=1))
        with pytest.raises(StartError, match=f"EMBED_METRICS_PORT: port {port}"):
            serve_metrics(port, Metrics(slots=1, in_flight=lambda: 0, is_ready=lambda: True).registry)


def test_a_port_that_somebody_else_listens_on_meanwhile_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Both may bind it, one may listen; the thread says so in one line."""
    port, lifecycle = free_port(), Lifecycle[str](slots=1)
    open_tcp_probes((port,), lifecycle)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("0.0.0.0", port))  # noqa: S104 - as the probe does
        other.listen()
        lifecycle.ready("model")
        for thread in [thread for thread in threading.enumerate() if thread.name == f"tcp-probe-{port}"]:
            thread.join(10)
    assert [(record.levelname, vars(record)["reason"]) for record in caplog.records] == [
        ("ERROR", f"EMBED_TCP_PROBES: port {port} cannot be used: Address already in use")
    ]


def test_metrics_have_a_port_of_their_own() -> None:
    """It serves them and nothing else."""
    port = free_port()
    serve_metrics(port, Metrics(slots=7, in_flight=lambda: 0, is_ready=lambda: True).registry)
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"embed_slots 7.0" in answer.read()
