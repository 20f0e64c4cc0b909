from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from tests.integration.raw import head, raw
from tests.server import Server

Record = Callable[[str, object], None]
DEEP = 100_000

REFUSED = {
    "deep arrays": b"[" * DEEP,
    "deep arrays, closed": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep in input": b'{"input":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep in an unknown field": b'{"input":"a","x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "invalid UTF-8": b'{"input":"\xff\xfe"}',
    "a NUL byte in a string": b'{"input":"a\0b"}',
    "a NUL byte behind the body": b'{"input":"a"}\0',
    "a lone surrogate": b'{"input":"\\ud800"}',
    "two surrogates the wrong way round": b'{"input":"\\udc00\\ud800"}',
    "1e999": b'{"input":"a","dimensions":1e999}',
    "-1e999": b'{"input":"a","priority":-1e999}',
    "NaN": b'{"input":"a","dimensions":NaN}',
    "Infinity": b'{"input":"a","priority":Infinity}',
    "an integer of 10 000 digits": b'{"input":"a","priority":' + b"9" * 10_000 + b"}",
    "token ids of 100 digits": b'{"input":[[' + b"9" * 100 + b"]]}",
    "UTF-16": json.dumps({"input": "a"}).encode("utf-16"),
}


def post(server: Server, body: bytes) -> httpx.Response:
    """Send *body* as it is."""
    return httpx.post(
        f"{server.url}/v1/embeddings", content=body, headers={"Authorization": "Bearer test-key"}, timeout=120
    )


@contextmanager
def peak_growth(server: Server) -> Iterator[Callable[[], float]]:
    """Say how many MB more than before the worker has held at most."""
    worker, stop = server.worker(), threading.Event()
    before = worker.memory_info().rss
    seen = [before]

    def look() -> None:
        while not stop.wait(0.02):
            seen.append(worker.memory_info().rss)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: (max(seen) - before) / 2**20
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_json_that_is_none_or_means_nothing(minilm: Server, body: bytes) -> None:
    """400 in the envelope, at once."""
    begin = time.monotonic()
    response = post(minilm, body)
    assert time.monotonic() - begin < 5
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_of_two_equal_keys_the_last_counts(minilm: Server) -> None:
    """As in nearly every JSON parser, so that no proxy and we read it differently."""
    twice = post(minilm, b'{"input":"first","input":"second"}').json()["data"][0]["embedding"]
    second = minilm.embed(input="second").json()["data"][0]["embedding"]
    assert np.dot(twice, second) > 0.9999


def test_strange_texts_are_texts(minilm: Server) -> None:
    """Escaped NUL, a valid pair of surrogates, every control character."""
    controls = "".join(map(chr, range(32)))
    assert minilm.embed(input=["\0", "\U0001f642", controls, "\ufffe\uffff"]).status_code == 200


HUGE: dict[str, tuple[dict[str, Any], int]] = {
    "one string of 10 MB": ({"input": "word " * 2_000_000}, 400),
    "one word of 10 MB, which is one token": ({"input": "x" * 10_000_000}, 200),
    "one string of 10 MB, cut": ({"input": "word " * 2_000_000, "truncate_prompt_tokens": -1}, 200),
    "a list of 1e6 token ids": ({"input": [7] * 1_000_000}, 400),
    "1e6 lists of one token id": ({"input": [[7]] * 1_000_000}, 400),
    "1e6 texts": ({"input": ["a"] * 1_000_000}, 400),
}


@pytest.mark.parametrize("what", HUGE)
def test_huge_but_allowed_bodies(minilm: Server, what: str, record_property: Record) -> None:
    """Answered in bounded time and memory, and others are served meanwhile."""
    content, status = HUGE[what]
    body = json.dumps(content).encode()
    waits: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not done.wait(0.02):
                begin = time.monotonic()
                assert client.get(f"{minilm.url}/health").status_code == 200
                waits.append(time.monotonic() - begin)

    other = threading.Thread(target=ask)
    other.start()
    begin = time.monotonic()
    try:
        with peak_growth(minilm) as growth:
            response = post(minilm, body)
    finally:
        done.set()
        other.join()
    seconds = time.monotonic() - begin
    assert response.status_code == status, response.text
    assert seconds < 60
    assert growth() < 2000
    assert max(waits, default=0) < 5
    record_property("what", what)
    waited_ms = 1000 * max(waits)
    figure = f"{status} after {seconds:.2f} s, at most {growth():.0f} MB; /health meanwhile {waited_ms:.0f} ms at most"
    record_property("figure", figure)


def test_short_requests_go_between_the_pieces_of_a_large_one(minilm: Server, record_property: Record) -> None:
    """While one of 18 MB is tokenized, on all cores, none of those with a few short texts waits for the end of it.

    Its words are too long for the vocabulary, one token each; what is too long for the model comes last.
    """
    text = ("x" * 150 + " ") * 200
    large = json.dumps({"input": [*[text] * 600, "a " * 300]}).encode()
    waits: list[float] = []
    with ThreadPoolExecutor(1) as executor:
        begin = time.monotonic()
        answer = executor.submit(post, minilm, large)
        while not answer.done():
            sent = time.monotonic()
            assert minilm.embed(input=["a short text", "another", "a third"]).status_code == 200
            waits.append(time.monotonic() - sent)
        seconds = time.monotonic() - begin
    assert "input 600 has 302 tokens" in answer.result().json()["error"]["message"]
    assert max(waits) < seconds / 2
    record_property("what", f"{len(large) / 1e6:.0f} MB of texts, and short requests meanwhile")
    record_property("figure", f"400 after {seconds:.2f} s; {len(waits)} short ones, {1000 * max(waits):.0f} ms at most")


def test_an_instruction_makes_much_of_little(minilm: Server, record_property: Record) -> None:
    """Before each of 1900 inputs 8 kB become 15 MB, in the main loop's own thread: /health goes between."""
    few = {"input": ["a"] * 1900, "instruction": "w " * 4000}
    body = json.dumps({**few, "truncate_prompt_tokens": 8}, separators=(",", ":")).encode()
    assert len(body) < 16_000  # larger ones get a thread
    waits: list[float] = []
    with ThreadPoolExecutor(1) as executor, httpx.Client(timeout=60) as client:
        begin = time.monotonic()
        answer = executor.submit(post, minilm, body)
        while not answer.done():
            sent = time.monotonic()
            assert client.get(f"{minilm.url}/health").status_code == 200
            waits.append(time.monotonic() - sent)
        seconds = time.monotonic() - begin
    assert answer.result().status_code == 200, answer.result().text
    assert answer.result().json()["usage"]["prompt_tokens"] == 8 * 1900
    assert max(waits) < seconds / 8
    assert post(minilm, json.dumps(few).encode()).json()["error"]["code"] == "context_length_exceeded"
    record_property("what", "a body of 16 kB of which an instruction makes 15 MB, cut")
    figure = f"200 after {seconds:.2f} s; /health meanwhile {1000 * max(waits):.0f} ms at most"
    record_property("figure", figure)


def test_an_instruction_of_megabytes(minilm: Server, record_property: Record) -> None:
    """16 MB before each of 2000 inputs would be 32 GB, were they put there before they are needed."""
    body = json.dumps({"input": ["a"] * 2000, "instruction": "w " * 8_000_000}).encode()
    with peak_growth(minilm) as growth:
        response = post(minilm, body)
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert growth() < 1000
    record_property("what", "an instruction of 16 MB before each of 2000 inputs")
    record_property("figure", f"400, at most {growth():.0f} MB")


def test_words_of_megabytes_at_once(minilm: Server, record_property: Record) -> None:
    """Ten of 10 MB, each of which takes half a gigabyte to be tokenized: they take turns, and it is given back."""
    body = json.dumps({"input": "x" * 10_000_000}).encode()
    before = minilm.worker().memory_info().rss
    with peak_growth(minilm) as growth, ThreadPoolExecutor(10) as executor:
        answers = list(executor.map(lambda _: post(minilm, body), range(10)))
    assert [answer.json()["usage"]["prompt_tokens"] for answer in answers] == [3] * 10
    assert growth() < 1500
    kept = (minilm.worker().memory_info().rss - before) / 2**20
    assert kept < 1000
    record_property("what", "ten words of 10 MB at once")
    record_property("figure", f"200 each, at most {growth():.0f} MB, {kept:.0f} MB afterwards")


@pytest.mark.parametrize("how", ["Content-Length", "chunked"])
def test_a_body_of_100_mb(minilm: Server, how: str, record_property: Record) -> None:
    """413, though the client sends all of it before it listens, and no more than the limit is kept."""
    piece = b"x" * (1 << 20)
    with peak_growth(minilm) as growth, raw(minilm) as connection:
        if how == "chunked":
            connection.sendall(head("Transfer-Encoding: chunked"))
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        else:
            connection.sendall(head(f"Content-Length: {100 << 20}"))
        for _ in range(100):
            connection.sendall(piece)
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413")
    assert growth() < 150
    assert minilm.embed(input="still here").status_code == 200
    record_property("what", f"a body of 100 MB, {how}")
    record_property("figure", f"413, at most {growth():.0f} MB held")
