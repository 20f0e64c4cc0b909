"""moto's S3 in a process of its own, and a proxy in front of it that breaks what it is told to break."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.server import accepts, free_port

BUCKET = "models"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "very-secret-key", "AWS_DEFAULT_REGION": "us-east-1"}
_PASSED = ("content-length", "transfer-encoding", "connection", "server", "date")


@contextmanager
def moto_server() -> Iterator[str]:
    """Run moto as a process and hand out its URL; in this one it would share the interpreter with what is tested."""
    port = free_port()
    command = [sys.executable, "-c", f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not accepts(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def upload(client: Any, folder: Path, prefix: str, **options: str) -> None:
    """Put every file of *folder* under *prefix*."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        key = f"{prefix}{file.relative_to(folder).as_posix()}"
        client.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes(), **options)


@dataclass(frozen=True, slots=True)
class Request:
    """What the proxy shows to a fault."""

    method: str
    path: str  # with the query
    key: str  # of the object, "" for the bucket
    first_byte: int | None  # of the range that is asked for


@dataclass(frozen=True, slots=True)
class Fault:
    """What the proxy does instead of answering: an error of S3, or a body that ends early."""

    status: int | None = None
    code: str = ""
    body: str = ""  # instead of the error as S3 writes it
    cut_after: int | None = None  # bytes of the body, then the connection is closed
    seconds: float = 0  # of silence before anything else
    body_seconds: float = 0  # of silence before it is closed
    headers: dict[str, str] = field(default_factory=dict)  # put into the answer
    ignored: tuple[str, ...] = ()  # headers and parameters of the request, in small letters


class Proxy:
    """An HTTP proxy for one upstream; *fault* decides on each request."""

    def __init__(self, upstream: str) -> None:
        """Pass everything on at first."""
        self.requests: list[Request] = []
        self.fault: Callable[[Request], Fault | None] = lambda _: None
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                """Answer GET and HEAD."""
                proxy.answer(self)

            do_HEAD = do_GET  # noqa: N815 - the library's names

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._upstream = upstream.removeprefix("http://")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def ranges(self, key: str) -> int:
        """Count the reads of the object *key*."""
        return sum(request.key == key and request.method == "GET" for request in list(self.requests))

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Pass one request on, or do what the fault says."""
        found = re.match(r"bytes=(\d+)-", handler.headers.get("range", ""))
        key = handler.path.partition("?")[0].removeprefix(f"/{BUCKET}").lstrip("/")
        request = Request(handler.command, handler.path, key, int(found[1]) if found else None)
        self.requests.append(request)
        fault = self.fault(request) or Fault()
        time.sleep(fault.seconds)
        if fault.status is not None:
            self._refuse(handler, fault)
            return
        upstream = HTTPConnection(self._upstream, timeout=60)
        passed = {name: value for name, value in handler.headers.items() if name.lower() not in fault.ignored}
        place, _, query = handler.path.partition("?")
        query = "&".join(part for part in query.split("&") if part.partition("=")[0].lower() not in fault.ignored)
        upstream.request(handler.command, f"{place}?{query}" if query else place, headers=passed)
        response = upstream.getresponse()
        body = response.read()
        handler.send_response(response.status)
        for name, value in {**{name.lower(): value for name, value in response.getheaders()}, **fault.headers}.items():
            if name.lower() not in _PASSED:
                handler.send_header(name, value)
        length = fault.headers.get("content-length") or response.headers.get("content-length")
        handler.send_header("Content-Length", length or str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: fault.cut_after])
        upstream.close()
        if fault.cut_after is not None:
            handler.wfile.flush()
            time.sleep(fault.body_seconds)
            handler.close_connection = True
            with suppress(OSError):  # the client has left first
                handler.connection.shutdown(socket.SHUT_RDWR)

    def _refuse(self, handler: BaseHTTPRequestHandler, fault: Fault) -> None:
        error = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code><Message>told so</Message></Error>"
        body = (fault.body or error).encode()
        handler.send_response(fault.status or 0)
        handler.send_header("Content-Type", "application/xml")
        for name, value in fault.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)
