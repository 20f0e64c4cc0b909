"""Clients as an embedding server meets them, in numbers that a shape chooses; `python -m tests.load` runs it.

Honest clients wait as long as Retry-After says and then ask again, twice, as OpenAI's client does.
"""

from __future__ import annotations

import json
import random
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import urlsplit

import gevent
from locust import FastHttpUser, LoadTestShape, between, constant_pacing, events

from tests.bench.wrk import WORDS
from tests.load.options import Options
from tests.load.record import Recorder, outcome
from tests.load.shapes import plan
from tests.load.summary import progress

_PATH = "/v1/embeddings"
_RETRIES = 2
_LONGEST_WAIT_S = 30
_SPAWN_RATE = 100  # users a second
_IO_TIMEOUT_S = 30
_BATCHES = (32, 64, 128, 256)
_HUGE = 1 << 40  # bytes that no server takes

OPTIONS = Options.from_environment()
RECORDER = Recorder(OPTIONS.out / "seconds.jsonl")
PLAN = plan(OPTIONS)


def text(least: int, most: int) -> str:
    """Make a new text of *least* to *most* words."""
    words = random.choices(WORDS, k=random.randint(least, most) - 1)
    return " ".join([f"{random.getrandbits(40):x}", *words])


class Client(FastHttpUser):  # type: ignore[misc]  # locust is in another environment
    """An honest client."""

    abstract = True
    insecure = False  # a key goes to nobody whose certificate is not valid
    network_timeout = 130.0  # the server gives up after 120
    connection_timeout = 30.0

    def embed(self, name: str, texts: list[str], encoding: str) -> None:
        """Ask for *texts*; when told to come later, come later."""
        told = texts[0] if len(texts) == 1 else texts
        body = json.dumps({"model": OPTIONS.model, "input": told, "encoding_format": encoding})
        for attempt in range(1 + _RETRIES):
            wait = self._attempt(name, body, len(texts), retry=attempt > 0)
            if wait is None:
                return
            gevent.sleep(min(wait, _LONGEST_WAIT_S))

    def _attempt(self, name: str, body: str, count: int, *, retry: bool) -> int | None:
        """Ask once; return the seconds after which to ask again, None if there is no need or no use."""
        RECORDER.sent(count, retry=retry)
        begin = time.perf_counter()
        options: dict[str, Any] = {"name": name, "catch_response": True, "allow_redirects": False}
        try:
            response = self.client.post(_PATH, data=body, headers=OPTIONS.headers, **options)
        except gevent.GreenletExit:  # locust took this user away between its waiting and its asking
            RECORDER.finished("cut", count, 0, retry=retry)
            raise
        with response as answer:
            took_ms = round(1000 * (time.perf_counter() - begin))
            retry_after = str((answer.headers or {}).get("Retry-After", ""))
            got = (answer.content or b"").count(b'"index":')
            what = outcome(answer.status_code, retry_after=retry_after, wanted=count, got=got)
            RECORDER.finished(what, count, took_ms, retry=retry)
            if what not in ("answered", "refused", "unavailable"):
                answer.failure(what)
                return None
            answer.success()
            if what == "answered":
                return None
            answer.request_meta["name"] = f"{name}, {what}"
        RECORDER.wait(retry_after)
        return int(retry_after)


def search(user: Client) -> None:
    """Ask for one short query, as OpenAI's client does."""
    user.embed("search", [text(3, 12)], "base64")


def index(user: Client) -> None:
    """Ask for a batch of passages."""
    texts = [text(10, 60) for _ in range(random.choice(_BATCHES))]
    user.embed("batch", texts, random.choice(["float", "base64"]))


class Search(Client):
    """Somebody who types a query, looks at what was found, and types the next."""

    weight = 6
    wait_time = between(0.5, 1.5)
    tasks: ClassVar = [search]


class Bulk(Client):
    """A job that indexes documents, a batch a second if it can."""

    weight = 1
    wait_time = constant_pacing(1)
    tasks: ClassVar = [index]


class Mixed(Client):
    """An application that mostly searches and indexes as it goes."""

    weight = 2
    wait_time = between(0.5, 1.5)
    tasks: ClassVar = {search: 9, index: 1}


def _expect(user: Client, name: str, body: str, statuses: set[int], **headers: str) -> None:
    """Send what must be refused with one of *statuses*."""
    options: dict[str, Any] = {"name": f"bad: {name}", "catch_response": True, "allow_redirects": False}
    with user.client.post(_PATH, data=body, headers={**OPTIONS.headers, **headers}, **options) as answer:
        busy = answer.status_code in (429, 503) and "Retry-After" in (answer.headers or {})
        surprise = None if busy or answer.status_code in statuses else f"{name}: {answer.status_code or 'no answer'}"
        RECORDER.misused(surprise)
        if surprise is None:
            answer.success()
        else:
            answer.failure(surprise)


def malformed(user: Client) -> None:
    """Send what is no JSON, or JSON of the wrong shape."""
    bodies = [
        '{"input": ["half a bo',
        "\x00\x01",
        "[]",
        '{"input": {"text": 1}}',
        '{"input": []}',
        '{"input": "a\\ud800"}',
    ]
    _expect(user, "malformed", random.choice(bodies), {400})


def wrong_model(user: Client) -> None:
    """Ask for a model that is not served."""
    _expect(user, "wrong model", json.dumps({"model": "no-such-model", "input": "text"}), {404})


def wrong_key(user: Client) -> None:
    """Come with a key that nobody has, where keys are asked for."""
    if OPTIONS.key:
        body = json.dumps({"model": OPTIONS.model, "input": "text"})
        _expect(user, "wrong key", body, {401, 403}, Authorization="Bearer nobody-has-this-key")


def _connect() -> socket.socket:
    parts = urlsplit(OPTIONS.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    plain = socket.create_connection((parts.hostname or "", port), timeout=_IO_TIMEOUT_S)
    if parts.scheme != "https":
        return plain
    return ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname)


def _head(length: int) -> bytes:
    parts = urlsplit(OPTIONS.url)
    headers = {"Host": parts.netloc, **OPTIONS.headers, "Content-Length": str(length)}
    lines = [f"POST {parts.path}{_PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _by_hand(user: Client, name: str, talk: Callable[[socket.socket], str | None]) -> None:
    """Let *talk* use a connection; it returns what should not have happened."""
    begin = time.perf_counter()
    try:
        with _connect() as connection:
            surprise = talk(connection)
    except OSError as problem:
        surprise = f"{name}: {type(problem).__name__}"
    RECORDER.misused(surprise)
    user.environment.events.request.fire(
        request_type="POST",
        name=f"bad: {name}",
        response_time=1000 * (time.perf_counter() - begin),
        response_length=0,
        exception=None if surprise is None else RuntimeError(surprise),
        context={},
    )


def oversize(user: Client) -> None:
    """Announce a body that is far too long, and read what is said to that."""

    def talk(connection: socket.socket) -> str | None:
        connection.sendall(_head(_HUGE))
        status = connection.recv(4096)[9:12].decode(errors="replace")
        return None if status in ("400", "413") else f"oversize: {status or 'no answer'}"

    _by_hand(user, "oversize", talk)


def hang_up(user: Client) -> None:
    """Leave in the middle of a request, or before its answer."""
    body = json.dumps({"model": OPTIONS.model, "input": [text(10, 60) for _ in range(4)]}).encode()
    part = random.choice([len(body) // 2, len(body)])

    def talk(connection: socket.socket) -> str | None:
        connection.sendall(_head(len(body)) + body[:part])
        gevent.sleep(0.01)
        return None

    _by_hand(user, "hang up", talk)


class Bad(Client):
    """Everything that a public server must bear."""

    weight = 1
    wait_time = between(0.5, 1.5)
    tasks: ClassVar = [malformed, wrong_model, wrong_key, oversize, hang_up]


class Shape(LoadTestShape):  # type: ignore[misc]  # locust is in another environment
    """Tells locust what the plan decides, and ends the recorder's seconds."""

    def tick(self) -> tuple[int, int] | None:
        """Return users and spawn rate, None at the end; locust asks about once a second."""
        phase = PLAN.phase
        if phase is None:
            return None
        if self.runner.user_count:  # the first call comes before there are any
            RECORDER.close(phase, self.runner.user_count)
        PLAN.advance(RECORDER.seconds)
        if PLAN.phase != phase:
            print(progress(RECORDER.seconds, phase, settle_s=OPTIONS.settle_s), flush=True)
        return (PLAN.users, _SPAWN_RATE) if PLAN.phase else None


def _end(**_: Any) -> None:
    RECORDER.close("end", 0)


events.quitting.add_listener(_end)
