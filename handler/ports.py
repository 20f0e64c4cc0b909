"""Ports besides the main one: Prometheus metrics, and TCP probes that accept only while the model is ready."""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server

from handler.errors import StartError
from handler.lifecycle import Lifecycle, State

log = logging.getLogger(__name__)

_BACKLOG = 1024  # of 200 probes in a row some found a queue of 64 full while the interpreter was elsewhere
_LOOK_S = 0.1  # how often a probe looks whether it may still accept


def serve_metrics(port: int, registry: CollectorRegistry) -> None:
    """Serve *registry* on *port*, from a thread of its own.

    Raises:
        StartError: the port is taken.
    """
    try:
        start_http_server(port, registry=registry)
    except OSError as exc:
        message = f"EMBED_METRICS_PORT: port {port} cannot be used: {exc.strerror}"
        raise StartError(message) from exc


def open_tcp_probes(ports: tuple[int, ...], lifecycle: Lifecycle[Any]) -> None:
    """Take *ports*, and accept connections on them while *lifecycle* is ready.

    gunicorn's own socket is open before the model is there, so a TCP check on it proves nothing.

    Raises:
        StartError: a port is taken.
    """
    for listener in [_bound(port) for port in ports]:
        name = f"tcp-probe-{listener.getsockname()[1]}"
        threading.Thread(target=_accept_while_ready, args=(listener, lifecycle), name=name, daemon=True).start()


def _bound(port: int) -> socket.socket:
    """Take *port* without listening: the kernel refuses connections to it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("0.0.0.0", port))  # noqa: S104 - probes come from outside of the container
    except OSError as exc:
        listener.close()
        message = f"EMBED_TCP_PROBES: port {port} cannot be used: {exc.strerror}"
        raise StartError(message) from exc
    return listener


def _accept_while_ready(listener: socket.socket, lifecycle: Lifecycle[Any]) -> None:
    lifecycle.wait_started()
    with listener:
        if lifecycle.state is State.READY:
            try:
                listener.listen(_BACKLOG)
            except OSError as exc:  # somebody else has bound it as well, and listens already
                reason = f"EMBED_TCP_PROBES: port {listener.getsockname()[1]} cannot be used: {exc.strerror}"
                log.error("probe_failed", extra={"reason": reason})  # noqa: TRY400 - a trace tells nothing more
                return
            listener.settimeout(_LOOK_S)
        while lifecycle.state is State.READY:
            try:
                listener.accept()[0].close()
            except TimeoutError:
                continue
            except OSError:  # the client has gone, or no descriptor is left for a moment
                time.sleep(_LOOK_S)
