"""What people and scrapers read: metrics, the description of the API, and a page to try it in a browser.

Description and page are made when somebody first asks for them: a start pays nothing. The description takes a tenth of
a second or more, so meanwhile others go on.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache, partial
from pathlib import Path

from flask import Flask, Response, request

from handler.access import Access
from handler.metrics import Metrics
from handler.service import Rules
from handler.strands import aside

_PAGE = Path(__file__).with_name("docs.html")


def add_pages(app: Flask, rules: Rules, access: Access, *, metrics: Metrics, need_key: bool) -> None:
    """Add the routes; *need_key* puts all of them behind a key."""

    def check() -> None:
        if need_key:
            access.check_page(request.headers.get("Authorization"))

    def describe_rules() -> bytes:
        from handler.openapi import describe  # noqa: PLC0415 - only for those who ask

        needs_key = not access.is_open
        return json.dumps(describe(rules, needs_key=needs_key, pages_need_key=need_key)).encode()

    description = cache(partial(aside, describe_rules))

    @app.get("/metrics", endpoint="metrics")
    def exposition() -> Response:
        check()
        return Response(metrics.exposition(), content_type=metrics.content_type)

    @app.get("/openapi.json")
    def openapi() -> Response:
        check()
        return Response(description(), mimetype="application/json")

    @app.get("/docs")
    def docs() -> Response:
        check()
        content, policy = _page()
        headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
        return Response(content, mimetype="text/html", headers=headers)


@cache
def _page() -> tuple[bytes, str]:
    """Return the page, and the policy by which a browser runs nothing but its own script and asks nobody but us."""
    content = _PAGE.read_bytes()
    allowed = {
        "default-src": ["'none'"],
        "script-src": _hashes(content, b"script"),
        "style-src": _hashes(content, b"style"),
        "img-src": ["data:"],
        "connect-src": ["'self'"],
        **{directive: ["'none'"] for directive in ("base-uri", "form-action", "frame-ancestors")},
    }
    return content, "; ".join(f"{directive} {' '.join(sources)}" for directive, sources in allowed.items())


def _hashes(content: bytes, element: bytes) -> list[str]:
    bodies = re.findall(rb"<%b>(.*?)</%b>" % (element, element), content, re.DOTALL)
    return [f"'sha256-{base64.b64encode(hashlib.sha256(body).digest()).decode()}'" for body in bodies]
