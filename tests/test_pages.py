from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from handler.lifecycle import Lifecycle
from handler.pages import _PAGE
from handler.service import LoadedModel
from tests.fake_app import build

KEY = {"Authorization": "Bearer key"}
PASSWORD = {"Authorization": f"Basic {base64.b64encode(b'me:key').decode()}"}
PAGES = ("/metrics", "/docs", "/openapi.json")
OPEN = (*("/health", "/ready", "/ping", "/version", "/v1/version"), *("/models", "/v1/models", "/v1/models/sum"))


@pytest.mark.parametrize("need_key", [False, True])
def test_what_is_told_without_a_key(need_key: bool) -> None:  # noqa: FBT001
    """The setting closes metrics and documentation; probes, listings and the version stay open."""
    client = build(keys=("key",), pages_need_key=need_key)
    assert {path: client.get(path).status_code for path in OPEN} == dict.fromkeys(OPEN, 200)
    assert {path: client.get(path).status_code for path in PAGES} == dict.fromkeys(PAGES, 401 if need_key else 200)
    for headers in (KEY, PASSWORD):
        assert [client.get(path, headers=headers).status_code for path in PAGES] == [200] * 3
    paths = (client.get("/openapi.json", headers=KEY).json or {})["paths"]
    assert {"security" in paths[path]["get"] for path in PAGES} == {need_key}
    assert "security" in paths["/v1/embeddings"]["post"]
    assert client.post("/v1/embeddings", json={"input": "a"}, headers=PASSWORD).status_code == 401


def test_a_browser_asks_its_user_for_the_key() -> None:
    """The challenge names both schemes; that of the API stays Bearer, at which no browser opens a window."""
    client = build(keys=("key",), pages_need_key=True)
    basic, bearer = client.get("/docs").headers.getlist("WWW-Authenticate")
    assert re.fullmatch(r'Basic realm="[^"]+", charset="UTF-8"', basic)
    assert bearer == "Bearer"
    assert client.post("/v1/embeddings", json={}).headers.getlist("WWW-Authenticate") == ["Bearer"]


def test_without_keys_everything_is_open() -> None:
    """As the start warns, or as the platform has checked already."""
    client = build(pages_need_key=True)
    assert [client.get(path).status_code for path in PAGES] == [200] * 3


def test_nothing_of_a_request_is_told_without_a_key() -> None:
    """Neither text nor key nor id, on any route, after it was embedded and after it was refused."""
    client = build(keys=("the-key",))
    headers = {"Authorization": "Bearer the-key", "X-Request-Id": "the-id"}
    for body in ({"input": "the-text", "user": "the-user"}, {"input": "the-text", "model": "the-model"}):
        client.post("/v1/embeddings", json=body, headers=headers)
        client.post("/v1/embeddings", json=body, headers={**headers, "Authorization": "Bearer the-wrong-key"})
    client.get("/the-path")
    for path in (*OPEN, *PAGES):
        told = client.get(path)
        shown = told.text + str(told.headers)
        assert not re.search("the-(text|user|model|key|wrong-key|id|path)", shown), path


def test_the_page_runs_its_own_script_and_nothing_else() -> None:
    """The policy allows what the file holds, by its hash; the file names no other host."""
    response = build().get("/docs")
    policy = response.headers["Content-Security-Policy"]
    assert re.sub(r"( 'sha256-[\w+/]+=')+", " HASHES", policy) == (
        "default-src 'none'; script-src HASHES; style-src HASHES; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert (response.headers["Referrer-Policy"], response.headers["Cache-Control"]) == ("no-referrer", "no-cache")
    assert response.mimetype == "text/html"
    text = _PAGE.read_text()
    assert set(re.findall(r"https?://[\w.]+", text)) == {"http://www.w3.org"}  # the name of SVG, which nobody fetches
    assert not re.search(r"<link[^>]+href=\"(?!data:)| src=| style=\"| on\w+=\"", text)


def test_the_page_is_there_while_the_model_loads() -> None:
    """It tells how far the start is."""
    client = build(ready=False)
    assert [client.get(path).status_code for path in PAGES] == [200] * 3


@pytest.mark.parametrize("origin", ["https://a.example", "https://b.example"])
def test_other_origins_are_let_in_only_where_the_operator_says_so(origin: str) -> None:
    """With the setting its origins, and theirs alone; without it none, at the request before the request too."""
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "authorization, content-type"
    paths = ("/v1/embeddings", "/v1/semantic_embed", "/v1/models", "/docs")

    def allowed(client: Any) -> list[dict[str, str]]:
        answers = [client.options(path, headers=asked) for path in paths]
        answers += [client.get(path, headers=asked) for path in paths]
        return [
            {
                name.lower(): value
                for name, value in answer.headers.items()
                if name.lower().startswith("access-control-")
            }
            for answer in answers
        ]

    assert allowed(build()) == [{}] * 8
    let_in = allowed(build(cors=("https://a.example",)))
    if origin != "https://a.example":
        assert let_in == [{}] * 8
        return
    assert {told["access-control-allow-origin"] for told in let_in} == {origin}
    assert all("access-control-allow-credentials" not in told for told in let_in)
    exposed = "metadata, retry-after, server-timing, x-request-id"
    assert {told["access-control-expose-headers"] for told in let_in} == {exposed}
    for told in let_in[:4]:
        assert "POST" in told["access-control-allow-methods"]
        assert told["access-control-allow-headers"] == "authorization, content-type"


def test_a_failed_server_still_tells() -> None:
    """What broke is to be seen."""
    lifecycle: Lifecycle[LoadedModel] = Lifecycle(slots=1)
    lifecycle.fail()
    client = build(ready=False, lifecycle=lifecycle)
    assert [client.get(path).status_code for path in PAGES] == [200] * 3
