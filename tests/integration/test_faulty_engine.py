from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from tests.forked import ForkedServer
from tests.integration.faulty_server import FATAL, NOT_A_NUMBER
from tests.server import Server

ROUNDS = 40


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """It ends with the last test, which kills its engine."""
    with ForkedServer(module="tests.integration.faulty_server", EMBED_EMF_NAMESPACE="embed/test") as server:
        yield server.wait_ready()


def test_a_row_that_is_not_a_number(server: Server, record_property: Callable[[str, object], None]) -> None:
    """500 for the request that it belongs to, never null; whoever shares its batch gets the right vectors."""
    with ThreadPoolExecutor(8) as clients:
        texts = [f"text number {index}" for index in range(8)]
        expected = server.embed(input=texts).json()["data"]

        def ask(index: int) -> httpx.Response:
            if index % 4 == 0:
                return server.embed(input=[NOT_A_NUMBER, [101, 102]])
            return server.embed(input=texts[index % 8])

        responses = list(clients.map(ask, range(4 * ROUNDS)))
        assert server.status("/ready") == 200
    worst = 1.0
    for index, response in enumerate(responses):
        assert b"null" not in response.content.replace(b'"param":null', b"").replace(b'"code":null', b"")
        if index % 4 == 0:
            assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
        else:
            cosine = np.dot(response.json()["data"][0]["embedding"], expected[index % 8]["embedding"])
            worst = min(worst, float(cosine))
    assert worst > 0.9999
    told = server.events("vector_not_finite")
    assert {(line["vectors"], line["not_finite"]) for line in told} == {(2, 1)}
    refused = [response for response in responses if response.status_code != 200]
    assert {line["request_id"] for line in told} == {response.headers["x-request-id"] for response in refused}
    record_property("what", "NaN in one text's vector while others share its batch")
    record_property("figure", f"{ROUNDS} such requests 500, {3 * ROUNDS} beside them 200, lowest cosine {worst:.6f}")


def test_an_engine_that_dies_is_told_to_cloudwatch(server: Server) -> None:
    """In the last line before the process ends."""
    assert server.embed(input=FATAL).status_code == 503
    assert server.wait_exit() == 1
    assert sum(line["EngineDeaths"][0] for line in server.events("metrics")) == 1
