"""Where a request ends in the bytes that have come: a thread is taken for whole requests only.

gunicorn's parser reads from the socket when it wants more, and a thread would wait there for whoever sends slowly. So
the end is found first, exactly, and a chunked body becomes one with a length, in one pass over its chunks.
Source: RFC 9112, sections 6 and 7.
"""

from __future__ import annotations

import re

from handler.errors import HeadTooLargeError, InvalidRequestError, RequestTooLargeError, ServiceError

_HEAD_END = b"\r\n\r\n"
_HEAD_BYTES = 64 * 1024
_CHUNK_LINE_BYTES = 256  # a size in hexadecimal and extensions, which nobody uses
_TRAILER_BYTES = 8 * 1024
_MAX_CHUNKS = 65_536  # each costs the main loop a microsecond, however little is in it
# Looked for in a head made lower case, several times faster than IGNORECASE; `_ENCODING` also in the head as it came.
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([^\r]*?)[ \t]*(?=\r\n)")
_LENGTH_DIGITS = 12  # more than any limit has
_ENCODING = re.compile(rb"\r\ntransfer-encoding:[ \t]*([^\r]*?)[ \t]*(?=\r\n)", re.IGNORECASE)
# A line that goes on with the one before it, and names that some take for one of the two above and others do not.
_AMBIGUOUS = re.compile(rb"\r\n(?:[ \t]|(?:content-length|transfer-encoding)[^:a-z0-9-])")
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue")
_CHUNK_SIZE = re.compile(rb"([0-9a-f]{1,15})[ \t]*(?:;[^\r\n]*)?", re.IGNORECASE)


class RequestFrame:
    """What is known so far of one request's extent."""

    def __init__(self, *, limit: int) -> None:
        """Start with nothing; a body of more than *limit* bytes is not waited for."""
        self.error: ServiceError | None = None  # why it is refused here, unread
        self.cut_short = False  # the body is over the limit and was not received; the application says so
        self.expects_continue = False
        self._limit = limit
        self._head_end = 0  # of the head and the empty line behind it, 0 while it has not come
        self._end = 0  # of the whole request; of a chunked one when its last line has come
        self._searched = 0
        self._chunks: list[tuple[int, int]] | None = None  # begin and end of each chunk's content
        self._chunk_bytes = 0
        self._next_chunk = 0  # where the next chunk's size stands

    def is_complete(self, received: bytearray) -> bool:
        """Whether nothing more of the request is waited for; *received* has grown since the last call."""
        if self.error is not None:
            return True
        if not self._head_end and not self._find_head(received):
            return self.error is not None
        if self._chunks is not None:
            return self._scan_chunks(received) or self.error is not None
        return len(received) >= self._end

    def take(self, received: bytearray) -> bytes:
        """Take the complete request out of *received*, its body with a length, as gunicorn's parser shall read it."""
        if self._chunks is None:
            request = bytes(received) if len(received) == self._end else bytes(received[: self._end])
        else:
            head = bytes(received[: self._head_end])
            length = b"\r\nContent-Length: %d" % self._chunk_bytes
            request = b"".join([_ENCODING.sub(length, head), *(received[start:end] for start, end in self._chunks)])
        if self.cut_short or len(received) == self._end:  # what follows, if anything, is a body that nobody reads
            received.clear()
        else:
            del received[: self._end]
        return request

    def _find_head(self, received: bytearray) -> bool:
        end = received.find(_HEAD_END, self._searched)
        if end < 0 or end > _HEAD_BYTES:
            self._searched = max(0, len(received) - len(_HEAD_END) + 1)
            if len(received) > _HEAD_BYTES + len(_HEAD_END):
                self.error = HeadTooLargeError("the request line and the headers are too long together")
            return False
        self._head_end = end + len(_HEAD_END)
        head = bytes(received[: end + 2]).lower()
        # gunicorn's parser takes a line feed alone for the end of a line, too.
        if not head.count(b"\n") == head.count(b"\r\n") == head.count(b"\r"):
            self.error = InvalidRequestError("lines of a request's head end with CR LF, and neither stands elsewhere")
        elif _AMBIGUOUS.search(head):
            self.error = InvalidRequestError("a header's line begins with a space, or has something before its colon")
        elif b"\r\ntransfer-encoding" in head and (encodings := _ENCODING.findall(head)):
            self._begin_chunks(head, encodings)
        else:
            self._read_length(_LENGTH.findall(head))
        self.expects_continue = _EXPECT.search(head) is not None and not self.cut_short
        return self.error is None

    def _begin_chunks(self, head: bytes, encodings: list[bytes]) -> None:
        """Refuse what two servers might read differently, before a byte of the body counts."""
        line = head.lstrip(b"\r\n").partition(b"\r\n")[0]
        if encodings != [b"chunked"] or _LENGTH.search(head) or not line.endswith(b"/1.1"):
            message = "a body is sent with Content-Length, or in HTTP/1.1 with Transfer-Encoding: chunked alone"
            self.error = InvalidRequestError(message)
        self._chunks = []
        self._next_chunk = self._head_end

    def _read_length(self, lengths: list[bytes]) -> None:
        """Find the end; what is no number, or stands there twice, others might read differently."""
        if len(lengths) > 1 or not all(map(bytes.isdigit, lengths)):
            self.error = InvalidRequestError("Content-Length must be one number")
            return
        digits = lengths[0].lstrip(b"0") if lengths else b""
        length = int(digits or b"0") if len(digits) <= _LENGTH_DIGITS else self._limit + 1
        self.cut_short = length > self._limit
        self._end = self._head_end + (0 if self.cut_short else length)

    def _scan_chunks(self, received: bytearray) -> bool:
        """Go over the chunks that are there; True at the end of the last one's trailers."""
        while self.error is None:
            line = self._next_line(received, self._next_chunk, _CHUNK_LINE_BYTES)
            if line is None:
                return False
            size = _CHUNK_SIZE.fullmatch(received, self._next_chunk, line)
            if size is None:
                self.error = InvalidRequestError("a chunk of the body has no valid size")
            elif int(size[1], 16) == 0:
                return self._skip_trailers(received, line + 2)
            elif not self._add_chunk(received, line + 2, int(size[1], 16)):
                return False
        return True

    def _add_chunk(self, received: bytearray, start: int, size: int) -> bool:
        """Note one chunk's place; False while it is not whole."""
        chunks = self._chunks if self._chunks is not None else []
        if self._chunk_bytes + size > self._limit:
            self.error = RequestTooLargeError("the body is larger than this server takes (EMBED_MAX_BODY_BYTES)")
        elif len(chunks) >= _MAX_CHUNKS:
            self.error = RequestTooLargeError(f"the body comes in more than {_MAX_CHUNKS} chunks; send larger ones")
        elif len(received) < start + size + 2:
            return False
        elif received[start + size : start + size + 2] != b"\r\n":
            self.error = InvalidRequestError("a chunk of the body is longer than it says")
        else:
            chunks.append((start, start + size))
            self._chunk_bytes += size
            self._next_chunk = start + size + 2
        return True

    def _skip_trailers(self, received: bytearray, start: int) -> bool:
        """Find the end of the trailers, which nothing here reads."""
        at = start
        while (line := self._next_line(received, at, _TRAILER_BYTES - (at - start))) is not None:
            if line == at:
                self._end = line + 2
                return True
            at = line + 2
        return False

    def _next_line(self, received: bytearray, start: int, longest: int) -> int | None:
        """Return where the line that begins at *start* ends, None while it does not."""
        end = received.find(b"\r\n", start, start + max(0, longest))
        if end < 0 and len(received) - start >= longest:
            self.error = InvalidRequestError("a line between the chunks of the body is too long")
        return end if end >= 0 else None
