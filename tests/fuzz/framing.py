"""Where a request ends: the same verdict however its bytes arrive, gunicorn's parser agrees, and never an exception."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from tests.fuzz.engine import fuzz, instrumented

_LIMIT = 200


def seeds() -> Iterator[bytes]:
    """Requests of every kind; the first byte says how they are split."""
    heads = [b"", b"Content-Length: 5\r\n", b"Content-Length: 999\r\n", b"Transfer-Encoding: chunked\r\n"]
    heads += [
        b"Expect: 100-continue\r\nContent-Length: 3\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"X: y\r\n" * 9,
        b"X: y\nContent-Length: 5\r\n",
        b"Content-Length: 0\r\nContent-Length: 5\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length:\r\n 5\r\n",
    ]
    bodies = [
        b"",
        b"12345",
        b"5\r\n12345\r\n0\r\n\r\n",
        b"1;a=b\r\nx\r\n0\r\nX: y\r\n\r\nGET",
        b"5\r\n0\r\n\r\n\r\n0\r\n\r\n",
    ]
    for index, head in enumerate(heads):
        for body in bodies:
            yield bytes([index]) + b"POST / HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n" + body


def check_parser(request: bytes, *, cut_short: bool) -> None:
    """Let gunicorn's parser read it: for that, too, it ends where we have found its end."""
    from gunicorn.http.errors import NoMoreData, ParseException
    from gunicorn.http.message import Request
    from gunicorn.http.unreader import IterUnreader

    try:
        read = Request(settings(), IterUnreader(iter([request])), ("127.0.0.1", 1))
    except (ParseException, NoMoreData):  # refused, and the connection closed
        return
    headers = dict(read.headers)
    assert "TRANSFER-ENCODING" not in headers
    assert cut_short or int(headers.get("CONTENT-LENGTH", "0")) == len(read.unreader.take_buffered())


@cache
def settings() -> Any:
    """gunicorn's, as the server sets them where they change how requests are read."""
    from gunicorn.config import Config

    made = Config()
    for name, value in {"secure_scheme_headers": {}, "forwarder_headers": "", "forwarded_allow_ips": "*"}.items():
        made.set(name, value)
    return made


def one(data: bytes) -> None:
    """Compare what arrives at once with what arrives in pieces."""
    from handler.framing import RequestFrame

    def feed(step: int) -> tuple[object, ...]:
        frame, received = RequestFrame(limit=_LIMIT), bytearray()
        complete = False
        for start in range(1, len(data), step):
            received += data[start : start + step]
            complete = frame.is_complete(received)
            if complete:
                received += data[start + step :]
                break
        kind = type(frame.error).__name__
        if not complete or frame.error is not None:
            return complete, kind, frame.cut_short
        request = frame.take(received)
        assert b"\r\n\r\n" in request
        check_parser(request, cut_short=frame.cut_short)
        assert frame.cut_short or len(request) - request.index(b"\r\n\r\n") - 4 <= _LIMIT
        return complete, kind, frame.cut_short, request, b"" if frame.cut_short else bytes(received)

    whole = feed(len(data) + 1)
    assert feed(1 + (data[0] if data else 0) % 16) == whole


if __name__ == "__main__":
    instrumented("handler.framing", "handler.refusals")
    fuzz(one)
