"""A small application behind the real gunicorn worker, for its tests; `python -m tests.worker_app` serves it."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator

from flask import Flask, Response, request

from handler.lifecycle import Lifecycle
from handler.strands import Signal

LIMIT_BYTES = 1 << 20
LARGE = bytes(range(256)) * 12_000  # 3 MB


def broken_off() -> Iterator[bytes]:
    """Fail when more has been sent than the kernel takes at once."""
    yield LARGE
    raise RuntimeError


def create_app() -> Flask:
    """Answer with the number of bytes received, after as many seconds as the query says."""
    app = Flask("worker_app")
    app.config["MAX_CONTENT_LENGTH"] = LIMIT_BYTES
    lifecycle: Lifecycle[str] = Lifecycle(slots=4)
    lifecycle.ready("model")
    app.extensions["lifecycle"] = lifecycle

    @app.post("/")
    def count() -> Response:
        with lifecycle.admit():
            if seconds := float(request.args.get("seconds", 0)):
                Signal().wait(seconds)
            return Response(str(len(request.get_data())))

    @app.get("/busy")
    def busy() -> Response:
        """Keep the main loop busy for a second, while others connect."""
        time.sleep(1)
        return Response("done")

    @app.get("/in_flight")
    def in_flight() -> Response:
        return Response(str(lifecycle.in_flight))

    @app.get("/health")
    def health() -> Response:
        return Response("alive")

    @app.get("/large")
    def large() -> Response:
        return Response(LARGE)

    @app.get("/nothing")
    def nothing() -> tuple[str, int]:
        return "", 204

    app.add_url_rule("/broken", "broken", lambda: Response(broken_off()))
    app.add_url_rule("/wrong", "wrong", lambda: Response(headers={"no name": "x"}))

    @app.errorhandler(Exception)
    def error(problem: Exception) -> tuple[str, int]:
        status = getattr(problem, "status", getattr(problem, "code", 500))
        return type(problem).__name__, int(status)

    return app


if __name__ == "__main__":
    from gunicorn.app.wsgiapp import run

    if descriptors := int(os.environ.get("DESCRIPTORS", "0")):
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    sys.argv = [
        *("gunicorn", "--bind", f"127.0.0.1:{os.environ['PORT']}", "--threads", "4", "--graceful-timeout", "8"),
        *("--worker-connections", os.environ.get("CONNECTIONS", "2048")),
        *("--worker-class", "handler.worker.EmbeddingWorker", "--no-control-socket", "tests.worker_app:create_app()"),
    ]
    run()
