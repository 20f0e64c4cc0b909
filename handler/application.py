"""Flask, less what every request would pay for and only sites with forms, cookies or many hosts need.

In front of it is a way past it for what is asked most, requests for embeddings that can be answered: Flask's contexts,
dispatching and responses take a third of the main loop's time for a short text. Only what ends well goes that way;
whatever goes wrong is handed to Flask, which answers it as on any other route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from flask import Flask, Request, current_app, request
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter

from handler.request_log import ANSWER, REQUEST_ID, RequestLog, begin
from handler.service import Answer

FAILED = "embed.failed"  # key of the environ: the exception that Flask is to answer
_TIMED = ("queue", "tokenize", "engine", "encode")

Environ = dict[str, Any]
Wsgi = Callable[[Environ, Any], Iterable[bytes]]
Embed = Callable[[Environ, Callable[[], bytes]], Answer]


def read_body() -> bytes:
    """Return the body of the current request.

    The worker has received it whole, or cut it off at the limit. Flask would read it through three layers that count.

    Raises:
        werkzeug.exceptions.RequestEntityTooLarge: it is longer than MAX_CONTENT_LENGTH.
    """
    length = request.content_length
    if length is None or length > current_app.config["MAX_CONTENT_LENGTH"]:
        return request.get_data(cache=False)
    body: bytes = request.environ["wsgi.input"].read(length)
    return body


class _NoSessions(SessionInterface):
    """No request has a session; Flask would make an empty one for each."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:  # noqa: ARG002 - Flask's signature
        """Hand out the one that nobody can write to."""
        return self._none


class Application(Flask):
    """Flask without sessions, host names and a look at what kind of function a view is."""

    session_interface = _NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return *func*; Flask would look three times in each request whether it is a coroutine."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Match by path alone; Flask would decode the host's name too."""
        if request is None:
            return None
        return MapAdapter(
            self.url_map,
            server_name="",  # of redirects, which no route here makes
            script_name="/",
            subdomain="",
            url_scheme="",  # likewise
            path_info=request.path,
            default_method=request.method,
        )


def answer_headers(answer: Answer) -> list[tuple[str, str]]:
    """Return the headers of a finished request, its id and length excepted."""
    timing = ", ".join([f"{name};dur={answer.stages_ms[name]}" for name in _TIMED])
    return [("Content-Type", answer.body.mimetype), *answer.body.headers.items(), ("Server-Timing", timing)]


class DirectEmbeddings:
    """WSGI middleware in front of Flask's application."""

    def __init__(
        self, behind: Wsgi, embeds: Mapping[str, Embed], request_log: RequestLog, *, max_body_bytes: int
    ) -> None:
        """Answer each route by its own of *embeds*, which reads the body; *behind* gets everything else."""
        self._behind = behind
        self._embeds = embeds
        self._request_log = request_log
        self._max_body_bytes = max_body_bytes

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        route = environ["PATH_INFO"]
        embed = self._embeds.get(route)
        if embed is None or environ["REQUEST_METHOD"] != "POST":
            return self._behind(environ, start_response)
        length = environ.get("CONTENT_LENGTH") or ""
        if not length.isdecimal() or int(length) > self._max_body_bytes:
            return self._behind(environ, start_response)
        begin(environ)
        try:
            environ[ANSWER] = answer = embed(environ, partial(environ["wsgi.input"].read, int(length)))
        except Exception as error:  # noqa: BLE001 - Flask has an answer to each
            environ[FAILED] = error
            return self._behind(environ, start_response)
        self._request_log.finish(environ, route=route, status=200)
        content = answer.body.content
        identity = [("Content-Length", str(len(content))), ("x-request-id", environ[REQUEST_ID])]
        start_response("200 OK", answer_headers(answer) + identity)
        return [content]
