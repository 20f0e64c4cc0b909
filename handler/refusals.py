"""Whole answers for requests that never reach the application: what cannot be read, and what there is no room for.

While every slot is taken, most of what comes is refused. Were it parsed, routed and answered by a thread each, refusing
would take the time that embedding needs; here it costs the main loop some microseconds.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache, partial
from http.client import responses
from typing import NamedTuple

from handler.errors import ServiceError, speaks_pharia
from handler.logs import current_request, new_request_id

log = logging.getLogger(__name__)

_BUSY_PATHS = {b"/v1/embeddings", b"/embeddings", b"/invocations"}  # whose errors have the envelope below
_LINE = re.compile(rb"POST ([^ ?\r\n]{1,64})(?:\?[^ \r\n]*)? HTTP/1\.1\r\n")
# Looked for in a head made lower case, which is several times faster than without regard to case.
_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([\x20-\x7e]{1,128}?)[ \t]*\r\n")
_PATH = re.compile(rb"[A-Z]+ ([^ ?\r\n]+)")
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n")
_LINES_PER_S = 20
_HEAD_BYTES = 4096  # of a request's beginning that are looked at
_imf_fixdate = lru_cache(maxsize=1)(partial(formatdate, usegmt=True))  # by the second, the unit of RFC 9110's dates


def sheddable_path(received: bytearray) -> str | None:
    """Return the path of a request for embeddings, None where the answer would look different."""
    line = _LINE.match(received)
    return line[1].decode() if line and line[1] in _BUSY_PATHS else None


class Asked(NamedTuple):
    """What of a request's head the answer that refuses it needs."""

    request_id: str  # the client's own, or one that was made
    closes: bool  # the connection, after the answer


def asked(received: bytes | bytearray) -> Asked:
    """Read the head of the request that *received* begins with, as far as it is there."""
    head = bytes(received[:_HEAD_BYTES]).partition(b"\r\n\r\n")[0] + b"\r\n"
    lower = head.lower()
    found = _REQUEST_ID.search(lower)
    told = head[slice(*found.span(1))].decode() if found else current_request.get() or new_request_id()
    return Asked(told, closes=_CLOSE.search(lower) is not None)


def asks_pharia(received: bytes | bytearray) -> bool:
    """Whether whoever sent the request that *received* begins with expects PhariaInference's errors."""
    path = _PATH.match(received[:_HEAD_BYTES])
    return path is not None and speaks_pharia(path[1].decode(errors="replace"))


class Ledger:
    """Counts and logs what the worker refuses; in a flood most lines are left out, and their number is told."""

    def __init__(self, count: Callable[..., None] | None) -> None:
        """Count by *count* (of `route`, `status` and `reason`, the error's code), None where nobody counts.

        Two threads at once may log a line more, and count no less.
        """
        self._count = count
        self._second = 0
        self._lines = 0  # of this second
        self._left_out = 0

    def note(self, error: ServiceError, *, request_id: str, path: str | None, pharia: bool = False) -> None:
        """Take note of a refused request, which had *path* or was not read; *pharia* as in `refusal`."""
        route, status, reason = path or "unknown", error.status_for(pharia=pharia), error.code or error.type
        if self._count is not None:
            self._count(route=route, status=status, reason=reason)
        if self._has_room():
            event, told = ("request", {"method": "POST", "total_ms": 0}) if path else ("refused", {})
            log.info(event, extra={"request_id": request_id, "route": route, "status": status, "error": reason, **told})

    def _has_room(self) -> bool:
        """Whether this second has room for another line."""
        self.expire()
        self._lines += 1
        self._left_out += self._lines > _LINES_PER_S
        return self._lines <= _LINES_PER_S

    def expire(self) -> None:
        """Tell how many lines the last second left out, once it is over."""
        if (now := int(time.monotonic())) == self._second:
            return
        self._second, self._lines = now, 0
        if self._left_out:
            log.info("refusals_not_logged", extra={"count": self._left_out})
            self._left_out = 0


def http_date() -> str:
    """Write the present second for an answer's Date; gunicorn's own writes it anew for each answer."""
    return _imf_fixdate(int(time.time()))


def refusal(error: ServiceError, *, request_id: str, close: bool = True, pharia: bool = False) -> bytes:
    """Write *error* as a whole response."""
    before, after = _around_id(type(error), error.message, pharia, close)  # type: ignore[arg-type]  # mypy looks at __hash__ of the instance
    return before + f"{request_id}\r\nDate: {http_date()}".encode() + after


@lru_cache(maxsize=64)
def _around_id(
    kind: type[ServiceError],
    message: str,
    pharia: bool,  # noqa: FBT001 - keys of the cache
    close: bool,  # noqa: FBT001
) -> tuple[bytes, bytes]:
    """Write what stands before and behind the request's id; in a flood every refusal is the same but for that."""
    body = json.dumps(kind(message).envelope(pharia=pharia))
    status = kind.status_for(pharia=pharia)
    head = [
        f"HTTP/1.1 {status} {responses[status]}",
        "Content-Type: application/json",
        "X-Content-Type-Options: nosniff",
        f"Content-Length: {len(body)}",
        *([f"Retry-After: {kind.retry_after}"] if kind.retry_after is not None else []),
        "x-request-id: ",
    ]
    return "\r\n".join(head).encode(), f"\r\nConnection: {'close' if close else 'keep-alive'}\r\n\r\n{body}".encode()
