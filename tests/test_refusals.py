from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime

import pytest

from handler.errors import InvalidRequestError, OverloadedError, SlowRequestError
from handler.refusals import Ledger, asked, asks_pharia, refusal, sheddable_path

POST = bytearray(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\n\r\n")


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (b"POST /v1/embeddings HTTP/1.1", "/v1/embeddings"),
        (b"POST /embeddings?a=b HTTP/1.1", "/embeddings"),
        (b"POST /invocations HTTP/1.1", "/invocations"),
        (b"POST /v1/embeddings HTTP/1.0", None),
        (b"GET /v1/embeddings HTTP/1.1", None),
        (b"POST /v1/semantic_embed HTTP/1.1", None),
        (b"POST /v1/embeddings/ HTTP/1.1", None),
        (b"POST " + b"/x" * 1000 + b" HTTP/1.1", None),
    ],
)
def test_only_requests_for_embeddings_are_shed(line: bytes, path: str | None) -> None:
    """Every other route has its own form of errors, or needs no slot."""
    assert sheddable_path(bytearray(line + b"\r\nHost: x\r\n\r\n")) == path


def test_the_clients_id_is_kept() -> None:
    """Where it is printable ASCII of at most 128 characters, and stands in the head."""
    sent = POST.replace(b"\r\n\r\n", b"\r\nX-Request-ID:  mine \r\n\r\n")
    assert asked(bytearray(sent)).request_id == "mine"
    assert asked(POST + b"\r\nx-request-id: body\r\n").request_id.startswith("req-")
    long = POST.replace(b"\r\n\r\n", b"\r\nX-Request-Id: " + b"x" * 129 + b"\r\n\r\n")
    assert asked(bytearray(long)).request_id.startswith("req-")


def test_a_client_may_ask_to_close() -> None:
    """Its header counts, not its body."""
    assert asked(bytearray(POST.replace(b"\r\n\r\n", b"\r\nconnection: Close\r\n\r\n"))).closes
    assert not asked(POST + b"\r\nConnection: close\r\n").closes


def test_a_refusal_is_a_whole_response() -> None:
    """With what a client needs to try again."""
    head, _, body = refusal(OverloadedError("full"), request_id="mine", close=False).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    date = next(line for line in lines if line.startswith("Date: ")).removeprefix("Date: ")
    assert abs(parsedate_to_datetime(date).timestamp() - time.time()) < 2
    assert lines[0] == "HTTP/1.1 429 Too Many Requests"
    assert {*lines[1:]} == {
        *("Content-Type: application/json", "X-Content-Type-Options: nosniff", f"Content-Length: {len(body)}"),
        *("Retry-After: 1", "x-request-id: mine", "Connection: keep-alive", f"Date: {date}"),
    }
    assert json.loads(body)["error"]["code"] == "overloaded"
    final = refusal(SlowRequestError("late"), request_id="mine")
    assert b"Connection: close" in final
    assert b"Retry-After" not in final


def test_a_refusal_has_the_form_that_the_paths_clients_read() -> None:
    """PhariaInference's client says busy at 503 only, and reads its own codes."""
    assert asks_pharia(bytearray(b"POST /v1/semantic_embed?nice=true HTTP/1.1\r\nHost: x\r\n"))
    head, _, body = refusal(OverloadedError("full"), request_id="mine", pharia=True).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert json.loads(body) == {"error": "full", "code": "QUEUE_FULL"}
    assert not asks_pharia(b"POST /v1/embeddings HTTP/1.1\r\n")
    assert not asks_pharia(b"\xff\xfe")
    assert not asks_pharia(b"POST /\xff HTTP/1.1\r\n")


def test_a_flood_is_counted_whole_and_logged_in_part(caplog: pytest.LogCaptureFixture) -> None:
    """Every refusal is counted; of many in one second some have a line, and the number of the others is told."""
    counted: list[tuple[str, int, str]] = []
    ledger = Ledger(lambda *, route, status, reason: counted.append((route, status, reason)))
    error = OverloadedError("all slots are taken")
    with caplog.at_level("INFO"):
        for number in range(500):
            ledger.note(error, request_id=str(number), path="/embeddings")
        time.sleep(1.01)
        ledger.note(error, request_id="later", path=None, pharia=True)  # with the status that its client got
        ledger.note(InvalidRequestError("not HTTP"), request_id="later", path=None)
    beside = [("unknown", 503, "overloaded"), ("unknown", 400, "invalid_request_error")]
    assert counted == [("/embeddings", 429, "overloaded")] * 500 + beside
    events = [record.message for record in caplog.records]
    told = sum(vars(record)["count"] for record in caplog.records if record.message == "refusals_not_logged")
    assert events.count("request") + told == 500
    assert 20 <= events.count("request") <= 40
    assert events[-1] == "refused"


def test_what_a_flood_left_out_is_told_when_it_is_over(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, though nothing else is refused."""
    ledger = Ledger(None)
    with caplog.at_level("INFO"):
        for second in (10.0, 10.9, 11.0, 12.0):
            monkeypatch.setattr("handler.refusals.time.monotonic", lambda second=second: second)
            for number in range(25 if second < 11 else 0):
                ledger.note(OverloadedError("full"), request_id=str(number), path="/embeddings")
            ledger.expire()
    assert [record.message for record in caplog.records] == ["request"] * 20 + ["refusals_not_logged"]
    assert vars(caplog.records[-1])["count"] == 30
