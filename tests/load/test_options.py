"""What a load test is told: taken as meant, or refused in one line before anything is asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.load import __main__ as load
from tests.load.options import Options


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the key is in nothing that is printed."""
    for name, value in {"URL": "http://host/", "KEY": "k-1", "P99_MS": "50", "USERS": "3", "SHAPE": "soak"}.items():
        monkeypatch.setenv(name, value)
    options = Options.from_environment()
    assert (options.url, options.p99_ms, options.users, options.shape) == ("http://host", 50, 3, "soak")
    assert options.headers["Authorization"] == "Bearer k-1"
    assert "k-1" not in repr(options)
    monkeypatch.setenv("SHAPE", "wave")
    with pytest.raises(ValueError, match="SHAPE must be one of ramp, soak"):
        Options.from_environment()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("USERS", "0", "a number above 0"),
        ("USERS", "-3", "a number above 0"),
        ("USERS", "abc", "a number above 0"),
        ("USERS", "2.5", "a whole number"),
        ("USERS", "2000", "MAX_USERS must be USERS (2000) or more"),
        ("MAX_USERS", "0", "a number above 0"),
        ("MAX_USERS", "9", "USERS (10) or more"),
        ("STEP_S", "0", "a number above 0"),
        ("HOLD_S", "-1", "a number above 0"),
        ("SOAK_S", "0", "a number above 0"),
        ("SOAK_S", "inf", "a number above 0"),
        ("P99_MS", "nan", "a number above 0"),
        ("MIN_GOODPUT", "-0.1", "a number of 0 or more"),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, told: str
) -> None:
    """In one line, with the exit code of a load that could not be run; without users locust would wait for ever."""
    monkeypatch.setenv(name, value)
    assert load.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cannot load: ")
    assert name in line
    assert told in line


def test_shares_that_are_not_wanted_are_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a soak of more users than a ramp would have is none of the ramp's business."""
    for name, value in {"MIN_GOODPUT": "0", "MIN_OVERLOAD": "0", "SHAPE": "soak", "USERS": "2000"}.items():
        monkeypatch.setenv(name, value)
    options = Options.from_environment()
    assert (options.min_goodput, options.min_overload, options.users) == (0, 0, 2000)


class Refusing(BaseHTTPRequestHandler):
    """Lists a model and answers every request for embeddings with one status."""

    status = HTTPStatus.UNAUTHORIZED

    def do_GET(self) -> None:
        """List."""
        self._send(HTTPStatus.OK, b'{"data": [{"id": "some-model"}]}')

    def do_POST(self) -> None:
        """Refuse."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(self.status, b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _send(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Refusing]]:
    """Point the load at a server that refuses."""
    kind = type("Kind", (Refusing,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("KEY", "key-of-the-test")
        monkeypatch.setenv("OUT", str(tmp_path / "out"))
        yield kind
        server.shutdown()


@pytest.mark.parametrize("status", [HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND])
def test_a_wrong_key_is_told_before_the_ramp(
    refusing: type[Refusing], capsys: pytest.CaptureFixture[str], status: HTTPStatus
) -> None:
    """One request shows it; the ramp would climb to its last step first."""
    refusing.status = status
    assert load.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"answers the first request with {status.value} {status.phrase}; see KEY and MODEL" in line
    assert "key-of-the-test" not in line


def test_a_busy_server_is_loaded_all_the_same(refusing: type[Refusing]) -> None:
    """What is full or still loads will take more later."""
    for status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        refusing.status = status
        load.ask_once(Options.from_environment(), "some-model")


def test_a_locust_that_hangs_is_told(
    refusing: type[Refusing], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is stopped and that is the reason."""
    refusing.status = HTTPStatus.OK
    monkeypatch.setenv("STEP_S", "0.0001")
    monkeypatch.setenv("HOLD_S", "0.0001")
    monkeypatch.setattr(load, "_MARGIN_S", 0)
    assert load.main() == 2
    assert capsys.readouterr().err.startswith("cannot load: locust did not end within 0.0")


def test_a_folder_that_cannot_be_made_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Before anything is asked."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("OUT", str(tmp_path / "file/out"))
    assert load.main() == 2
    assert capsys.readouterr().err == "cannot load: OUT cannot be a folder: Not a directory\n"
