"""Where a request ends: the same verdict however its bytes arrive, and never an exception."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.engine import fuzz, instrumented

_LIMIT = 200


def seeds() -> Iterator[bytes]:
    """Requests of every kind; the first byte says how they are split."""
    heads = [b"", b"Content-Length: 5\r\n", b"Content-Length: 999\r\n", b"Transfer-Encoding: chunked\r\n"]
    heads += [
        b"Expect: 100-continue\r\nContent-Length: 3\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"X: y\r\n" * 9,
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
        assert frame.cut_short or len(request) - request.index(b"\r\n\r\n") - 4 <= _LIMIT
        return complete, kind, frame.cut_short, request, b"" if frame.cut_short else bytes(received)

    whole = feed(len(data) + 1)
    assert feed(1 + (data[0] if data else 0) % 16) == whole


if __name__ == "__main__":
    instrumented("handler.framing", "handler.refusals")
    fuzz(one)
