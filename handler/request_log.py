"""What is kept of a request while it runs, and what is told of it when it is answered.

One line in the log, its metrics, and its watches: counts and times, nothing of its content.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from handler.finished import Finished, Watch
from handler.logs import current_request, new_request_id
from handler.metrics import Metrics
from handler.service import Answer

log = logging.getLogger(__name__)

_METHODS = {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"}  # any other is the client's own text

# Keys of the WSGI environ, which lives exactly as long as one request.
REQUEST_ID = "embed.request_id"
RECEIVED = "embed.received"
ANSWER = "embed.answer"
ERROR = "embed.error"  # its code


def begin(environ: dict[str, Any]) -> None:
    """Note when the request came and give it an id, unless it has one."""
    if REQUEST_ID not in environ:
        environ[RECEIVED] = time.monotonic()
        environ[REQUEST_ID] = _request_id(environ.get("HTTP_X_REQUEST_ID"))
        current_request.set(environ[REQUEST_ID])


def _request_id(sent: str | None) -> str:
    """Keep the client's id where it is printable ASCII of at most 128 characters, else make one."""
    if sent and len(sent) <= 128 and sent.isascii() and sent.isprintable():  # noqa: PLR2004 - said in the docstring
        return sent
    return new_request_id()


class RequestLog:
    """Tells of answered requests."""

    def __init__(self, metrics: Metrics, watches: tuple[Watch, ...]) -> None:
        """Count by *metrics* and show each request to *watches*."""
        self._metrics = metrics
        self._watches = watches

    def finish(self, environ: dict[str, Any], *, route: str, status: int, probed: bool = False) -> None:
        """Tell of a request that was begun.

        Args:
            environ: its own, with `ANSWER` or `ERROR` where there is one.
            route: the pattern, never the client's path.
            status: of the answer.
            probed: it is one of those asked every few seconds, logged at DEBUG only.
        """
        answer: Answer | None = environ.get(ANSWER)
        error: str | None = environ.get(ERROR)
        seconds = time.monotonic() - environ[RECEIVED]
        fields: dict[str, Any] = {
            "request_id": environ[REQUEST_ID],
            "method": method if (method := environ["REQUEST_METHOD"]) in _METHODS else "_OTHER",
            "route": route,
            "status": status,
            "total_ms": round(1000 * seconds, 3),
        }
        self._metrics.answered(route=route, status=status, seconds=seconds, reason=error)
        if answer is not None:
            self._metrics.embedded(inputs=answer.inputs, tokens=answer.tokens, stages_ms=answer.stages_ms)
            fields |= {"inputs": answer.inputs, "tokens": answer.tokens, "stages_ms": answer.stages_ms}
        if error is not None:
            fields["error"] = error
        if self._watches and not probed:
            finished = Finished.of(fields, lambda name: environ.get(f"HTTP_{name.upper()}"))
            for watch in self._watches:
                fields |= watch(finished)
        emit: Callable[..., None] = log.debug if probed else log.info
        emit("request", extra=fields)
