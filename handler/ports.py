"""Ports besides the main one: Prometheus metrics, and TCP probes that accept only while the model is ready."""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from handler.errors import StartError
from handler.lifecycle import Lifecycle, State

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

log = logging.getLogger(__name__)

_BACKLOG = 1024  # of 200 probes in a row some found a queue of 64 full while the interpreter was elsewhere
_LOOK_S = 0.1  # how often a probe looks whether it may still accept


def serve_metrics(port: int, registry: CollectorRegistry) -> None:
    """Serve *registry* on *port*, from a thread of its own.

    Raises:
        StartError: the port is taken.
    """
    from prometheus_client import start_http_server  # noqa: PLC0415 - gunicorn's master, which takes a port, needs none

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
    for listener in [bound(port, "EMBED_TCP_PROBES") for port in ports]:
        name = f"tcp-probe-{listener.getsockname()[1]}"
        threading.Thread(target=_accept_while_ready, args=(listener, lifecycle), name=name, daemon=True).start()


def bound(port: int, setting: str) -> socket.socket:
    """Take *port*, which *setting* names, without listening: the kernel refuses connections to it.

    Raises:
        StartError: it is taken, or not this user's to take.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn does: closed connections take no port
    try:
        listener.bind(("0.0.0.0", port))  # noqa: S104 - clients and probes come from outside of the container
    except OSError as exc:
        listener.close()
        message = f"{setting}: port {port} cannot be used: {exc.strerror}"
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
