from __future__ import annotations

import logging
from unittest.mock import Mock

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from handler.application import answer_headers
from tests.fake_app import build

_CHANGING = {"server-timing", "x-request-id"}


def by_flask(client: FlaskClient) -> FlaskClient:
    """Take the way past Flask off *client*."""
    del vars(client.application)["wsgi_app"]
    return client


def headers(response: TestResponse) -> dict[str, str]:
    """What does not differ from request to request, and of the rest that it is there."""
    return {name.lower(): "" if name.lower() in _CHANGING else value for name, value in response.headers}


@pytest.mark.parametrize("encoding_format", ["float", "base64", "bytes", "bytes_only"])
@pytest.mark.parametrize("route", ["/v1/embeddings", "/embeddings", "/invocations"])
def test_both_ways_answer_alike(encoding_format: str, route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same head and body, whatever the wire format."""
    monkeypatch.setattr("handler.encoding.os.urandom", bytes)
    monkeypatch.setattr("handler.encoding.time.time", lambda: 1.0)
    asked = {"input": ["a", "bc"], "encoding_format": encoding_format}
    direct, flask = (client.post(route, json=asked) for client in (build(), by_flask(build())))
    assert direct.status_code == flask.status_code == 200
    assert headers(direct) == headers(flask)
    assert direct.data == flask.data


@pytest.mark.parametrize("route", ["/semantic_embed", "/v1/semantic_embed"])
def test_both_ways_speak_pharia(route: str) -> None:
    """PhariaInference's routes that embed take them too, and its errors."""
    asked = {"prompt": "a", "representation": "query"}
    for body, status in ((asked, 200), ({"prompt": 1}, 400)):
        direct, flask = (client.post(route, json=body) for client in (build(), by_flask(build())))
        assert direct.status_code == flask.status_code == status
        assert headers(direct) == headers(flask)
        assert direct.data == flask.data


def test_flask_is_not_asked_for_what_can_be_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its view is there for the rest: a body without a length or too long, and browsers of other origins."""
    view = Mock(wraps=answer_headers)
    monkeypatch.setattr("handler.app.answer_headers", view)
    body = b'{"input": "a"}'
    assert build().post("/v1/embeddings", data=body).status_code == 200
    assert view.call_count == 0
    for length, status in (("", 400), ("ten", 400), ("5000", 413)):
        response = build().post("/v1/embeddings", data=body, environ_overrides={"CONTENT_LENGTH": length})
        assert response.status_code == status
    assert build().put("/v1/embeddings", data=body).status_code == 405
    site = "https://a.example"
    allowed = build(cors=(site,)).post("/v1/embeddings", data=body, headers={"Origin": site})
    assert allowed.headers["Access-Control-Allow-Origin"] == site
    assert view.call_count == 1


def test_a_failure_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line, one count, one answer in the envelope, and the client's id in all of them."""
    client = build(keys=("k",))
    with caplog.at_level(logging.INFO):
        refused = client.post("/v1/embeddings", json={"input": "a"}, headers={"x-request-id": "mine"})
    assert (refused.status_code, refused.headers.getlist("x-request-id")) == (401, ["mine"])
    assert refused.json is not None
    assert refused.json["error"]["code"] == "invalid_api_key"
    lines = [vars(record) for record in caplog.records if record.message == "request"]
    assert [(line["request_id"], line["status"], line["error"]) for line in lines] == [("mine", 401, "invalid_api_key")]
    counted = client.get("/metrics").text
    assert 'embed_requests_total{route="/v1/embeddings",status="401"} 1.0' in counted
    assert 'embed_rejected_total{reason="invalid_api_key"} 1.0' in counted
