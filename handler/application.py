"""Flask, less what every request would pay for and only sites with forms, cookies or many hosts need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Request, Response, current_app, request
from flask.sessions import NullSession, SessionInterface, SessionMixin
from werkzeug.routing import MapAdapter


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

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Save nothing."""


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
            server_name=request.environ.get("HTTP_HOST", ""),  # of redirects
            script_name="/",
            subdomain="",
            url_scheme=request.scheme,
            path_info=request.path,
            default_method=request.method,
        )
