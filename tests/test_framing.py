from __future__ import annotations

import pytest

from handler.errors import HeadTooLargeError, InvalidRequestError, RequestTooLargeError
from handler.framing import RequestFrame

LIMIT = 1000


def head(*lines: bytes, version: bytes = b"1.1") -> bytes:
    """Build the head of a POST."""
    return b"\r\n".join([b"POST / HTTP/" + version, b"Host: x", *lines, b"", b""])


CHUNKED = head(b"Transfer-Encoding: chunked")


def feed(data: bytes, step: int = 1 << 20) -> tuple[RequestFrame, bytearray]:
    """Let *data* arrive in pieces of *step* bytes until the frame is complete; what came is left."""
    frame, received = RequestFrame(limit=LIMIT), bytearray()
    for start in range(0, len(data), step):
        received += data[start : start + step]
        if frame.is_complete(received):
            received += data[start + step :]
            break
    return frame, received


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("data", "request_", "left"),
    [
        (head(), head(), b""),
        (head() + b"GET", head(), b"GET"),
        (head(b"content-length:5") + b"12345", head(b"content-length:5") + b"12345", b""),
        (head(b"Content-Length: 0005 ") + b"12345GET", head(b"Content-Length: 0005 ") + b"12345", b"GET"),
        (
            head(b"Content-Length: " + b"0" * 30 + b"2") + b"ab",
            head(b"Content-Length: " + b"0" * 30 + b"2") + b"ab",
            b"",
        ),
        (CHUNKED + b"0\r\n\r\n", head(b"Content-Length: 0"), b""),
        (
            CHUNKED + b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            head(b"Content-Length: 13") + b"abc0123456789",
            b"",
        ),
        (CHUNKED + b"5\r\n0\r\n\r\n\r\n0\r\n\r\nGET", head(b"Content-Length: 5") + b"0\r\n\r\n", b"GET"),
        (CHUNKED + b"1\r\na\r\n0\r\nX: y\r\nZ: z\r\n\r\nGET", head(b"Content-Length: 1") + b"a", b"GET"),
        (CHUNKED + b"1F\r\n" + b"x" * 31 + b"\r\n0\r\n\r\n", head(b"Content-Length: 31") + b"x" * 31, b""),
        (b"\r\n" + CHUNKED + b"0\r\n\r\n", b"\r\n" + head(b"Content-Length: 0"), b""),  # RFC 9112, section 2.2
    ],
)
def test_a_whole_request_and_what_follows(data: bytes, request_: bytes, left: bytes, step: int) -> None:
    """The same whatever the boundaries, and a chunk's content is never taken for the end."""
    frame, received = feed(data, step)
    assert frame.is_complete(received)
    assert frame.error is None
    assert (frame.take(received), bytes(received)) == (request_, left)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"POST / HTTP/1.1\r\n",
        head(b"Content-Length: 5") + b"1234",
        CHUNKED + b"5\r\n12345",
        CHUNKED + b"5\r\n12345\r\n",
        CHUNKED + b"5\r\n0\r\n\r\n",
        CHUNKED + b"0\r\n",
        CHUNKED + b"0\r\nX: y\r\n",
    ],
)
def test_half_a_request(data: bytes) -> None:
    """It is waited for."""
    frame, received = feed(data)
    assert not frame.is_complete(received)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"GET /" + b"x" * 70_000, HeadTooLargeError),
        (head(b"X: " + b"x" * 70_000), HeadTooLargeError),
        (head(b"Transfer-Encoding: gzip, chunked"), InvalidRequestError),
        (head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), InvalidRequestError),
        (head(b"Transfer-Encoding: chunked", b"Content-Length: 3"), InvalidRequestError),
        (head(b"Transfer-Encoding : chunked", version=b"1.0"), InvalidRequestError),
        (CHUNKED + b"x\r\n", InvalidRequestError),
        (CHUNKED + b"-1\r\n", InvalidRequestError),
        (CHUNKED + b"\r\n", InvalidRequestError),
        (CHUNKED + b"1" * 300, InvalidRequestError),
        (CHUNKED + b"1\r\nabc", InvalidRequestError),
        (CHUNKED + b"0\r\n" + b"X: y\r\n" * 2000, InvalidRequestError),
        (CHUNKED + b"3e9\r\n", RequestTooLargeError),
        (CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\n", RequestTooLargeError),
        (CHUNKED + b"fffffffffffffff\r\n", RequestTooLargeError),
    ],
)
def test_what_is_refused_unread(data: bytes, kind: type[Exception]) -> None:
    """What has no end, or one that two servers might see at different places."""
    frame = RequestFrame(limit=LIMIT)
    assert frame.is_complete(bytearray(data))
    assert type(frame.error) is kind


def test_crumbs_are_refused() -> None:
    """A body of one-byte chunks costs the main loop a bounded time."""
    frame, received = RequestFrame(limit=1 << 20), bytearray(CHUNKED + b"1\r\na\r\n" * 70_000)
    assert frame.is_complete(received)
    assert isinstance(frame.error, RequestTooLargeError)


@pytest.mark.parametrize("length", [b"1001", b"9" * 13, b"9" * 5000])
def test_a_body_over_the_limit_is_not_waited_for(length: bytes) -> None:
    """The application refuses it by its length; nothing behind the head is taken for another request."""
    frame, received = feed(head(b"Content-Length: " + length, b"Expect: 100-continue") + b"GET / HTTP/1.1\r\n\r\n")
    assert frame.is_complete(received)
    assert frame.cut_short
    assert not frame.expects_continue
    assert frame.take(received).endswith(b"\r\n\r\n")
    assert not received


@pytest.mark.parametrize(
    "data",
    [
        *(
            head(b"Content-Length: " + length)
            for length in (b"x", b"+5", b"5, 5", b"5,5", b"\xb2", b"", b"0x5", b"5\x0b")
        ),
        head(b"Content-Length: 5", b"Content-Length: 5"),
        head(b"Content-Length: 0", b"content-length: 5"),
        *(head(b"Content-Length" + between + b"5") for between in (b" :", b"\t: ", b"\x0b:", b"\0:", b":\r\n ")),
        *(head(b"Transfer-Encoding" + between + b"chunked") for between in (b" :", b"\t:", b"\x0b:", b":\r\n\t")),
        head(b" X: y"),
        head(b"X: y\nContent-Length: 5"),
        head(b"X: y\nTransfer-Encoding: chunked"),
        head(b"X: y\rContent-Length: 5"),
        head(b"Content-Length: 5\nX: y"),
        head(b"X: y\n", b"Z: z"),
        head(b"X: y\n\n", b"Z: z"),
        b"GET / HTTP/1.1\nHost: x\r\n\r\n",
        b"\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_two_servers_cannot_read_a_head_differently(data: bytes) -> None:
    """What gunicorn's parser, or a proxy, might end elsewhere is refused, however full the server is."""
    frame = RequestFrame(limit=LIMIT)
    assert frame.is_complete(bytearray(data + b"12345GET / HTTP/1.1\r\n\r\n"))
    assert isinstance(frame.error, InvalidRequestError)


def test_a_client_that_waits_for_continue() -> None:
    """It is told apart."""
    assert feed(head(b"Content-Length: 3", b"expect: 100-Continue"))[0].expects_continue
    assert not feed(head(b"Content-Length: 3"))[0].expects_continue
