"""What the worker answers by itself, as it never reaches the application; with an id, a log line and a count."""

from __future__ import annotations

import json
import logging
import socket
from typing import Protocol

from handler.errors import ServiceError
from handler.logs import current_request, new_request_id

log = logging.getLogger(__name__)


class Count(Protocol):
    """Counts one answer."""

    def __call__(self, *, status: int, reason: str) -> None:
        """Count it by its *status* and the code of its error."""


def refuse(client: socket.socket, error: ServiceError, *, count: Count | None) -> str:
    """Answer *error* without waiting for a slow reader and return the request's id, which is a new one mostly."""
    request_id = current_request.get() or new_request_id()
    status, reason = error.status.value, error.code or error.type
    log.info("refused", extra={"request_id": request_id, "status": status, "error": reason})
    if count is not None:
        count(status=status, reason=reason)
    try:
        client.send(_response(error, request_id), socket.MSG_DONTWAIT)  # the thread may be the main loop's
    except OSError as exc:
        log.debug("refusal_not_sent", extra={"request_id": request_id, "error": type(exc).__name__})
    return request_id


def _response(error: ServiceError, request_id: str) -> bytes:
    """Write *error* as a whole response."""
    told = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    body = json.dumps({"error": told})
    head = [
        f"HTTP/1.1 {error.status.value} {error.status.phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"x-request-id: {request_id}",
        *([f"Retry-After: {error.retry_after}"] if error.retry_after is not None else []),
        "Connection: close",
    ]
    return "\r\n".join([*head, "", body]).encode()
