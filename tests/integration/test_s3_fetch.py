"""The fetch over real HTTP: moto's server in its own process, behind a proxy that breaks things."""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from handler import s3_fetch, s3_model
from handler.errors import StartError
from handler.s3_model import fetch_description
from tests.integration.tiny_bucket import KEY, RANGE, URL, WEIGHTS, assert_whole, fetch, on_weights, put
from tests.s3_server import BUCKET, Fault, Proxy, Request


def test_a_model_is_fetched_and_found_again(proxy: Proxy, tmp_path: Path) -> None:
    """In ranges, without the model card; the second start reads nothing but the listing."""
    folder = fetch(tmp_path)
    assert_whole(folder)
    assert proxy.ranges(KEY) == 6
    assert not proxy.ranges("org/tiny/README.md")
    seen = len(proxy.requests)
    assert fetch(tmp_path) == folder
    assert [request.key for request in proxy.requests[seen:]] == [""]


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize("slash", ["", "/"])
def test_the_slash_at_the_end_may_be_missing(tmp_path: Path, slash: str) -> None:
    """And it is the same folder."""
    assert fetch(tmp_path, url=URL.rstrip("/") + slash) == fetch(tmp_path)


@pytest.mark.parametrize(
    ("fault", "first_byte"),
    [
        (Fault(cut_after=300_000), 2 * RANGE),
        (Fault(cut_after=0), 5 * RANGE),
        (Fault(status=503, code="SlowDown"), 0),
        (Fault(status=500, code="InternalError"), 0),
    ],
    ids=["cut", "cut-at-once", "slow-down", "internal"],
)
def test_what_passes_is_tried_again(proxy: Proxy, tmp_path: Path, fault: Fault, first_byte: int) -> None:
    """A cut body goes on where it ended; with one attempt less it fails and says so."""
    proxy.fault = on_weights(fault, first_byte=first_byte, times=2)
    assert_whole(fetch(tmp_path, attempts=3))
    proxy.fault = on_weights(fault, first_byte=first_byte, times=2)
    with pytest.raises(StartError, match=r"each of 2 attempts.*EMBED_HTTP_REQUEST_RETRIES"):
        fetch(tmp_path / "other", attempts=2)


@pytest.mark.parametrize(
    "fault", [Fault(seconds=3), Fault(cut_after=300_000, body_seconds=3)], ids=["before-the-answer", "in-the-body"]
)
def test_a_connection_that_hangs_is_left(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """Silence for longer than the read timeout is tried again as any broken connection is."""
    monkeypatch.setattr(s3_model, "_READ_TIMEOUT_S", 0.3)
    proxy.fault = on_weights(fault, times=2)
    assert_whole(fetch(tmp_path, attempts=3))
    asked = [request.first_byte for request in proxy.requests if request.key == KEY and request.first_byte]
    assert sum(2 * RANGE <= at < 3 * RANGE for at in asked) == 3
    proxy.fault = on_weights(fault, times=2)
    with pytest.raises(StartError, match=r"the connection broke in each of 2 attempts.*EMBED_HTTP_REQUEST_RETRIES"):
        fetch(tmp_path / "other", attempts=2)


def test_a_start_that_fails_does_not_wait_for_what_hangs(proxy: Proxy, tmp_path: Path) -> None:
    """One range is refused while another is silent for longer than the read timeout of 20 s."""

    def decide(request: Request) -> Fault | None:
        if request.key != KEY or request.method != "GET":
            return None
        return Fault(status=403, code="AccessDenied", seconds=0.5) if request.first_byte else Fault(seconds=30)

    proxy.fault = decide
    begin = time.monotonic()
    with pytest.raises(StartError, match="access denied"):
        fetch(tmp_path)
    assert time.monotonic() - begin < 10
    proxy.fault = lambda _: None
    assert_whole(fetch(tmp_path))


@pytest.mark.usefixtures("proxy")
def test_a_streaming_start_leaves_others_their_weights(tmp_path: Path) -> None:
    """Two processes share a cache: one has fetched the weights, the other's loader reads them from the bucket."""
    folder = fetch(tmp_path)
    located = fetch_description(URL, tmp_path, attempts=3, stream="all")
    assert (located.fetch_weights, located.streamed_from) == (None, URL)
    streamed = located.folder
    assert streamed != folder
    assert (streamed / "config.json").is_file()
    assert not list(streamed.glob("*.safetensors"))
    assert_whole(folder)


@pytest.mark.usefixtures("proxy")
def test_a_streaming_start_looks_for_the_weights_too(s3: Any, tmp_path: Path) -> None:
    """A shard that is missing, and others beside them, which the loader would pass over or load; not those of ranks."""
    prefix, rank = "other/streamed/", "model-rank-0-part-0.safetensors"
    url = f"s3://{BUCKET}/{prefix}"
    put(s3, f"{prefix}config.json", b"{}")
    put(s3, f"{prefix}model.safetensors.index.json", json.dumps({"weight_map": {"a": "a", "b": "b"}}).encode())
    put(s3, f"{prefix}{rank}", b"a")
    with pytest.raises(StartError, match=r"streamed/a is missing, though the index names it"):
        fetch_description(url, tmp_path, attempts=3, stream="all")
    fetch_description(url, tmp_path, attempts=3, stream="ranks").release()
    put(s3, f"{prefix}model.safetensors", b"a")
    with pytest.raises(StartError, match=f"{rank} would be streamed over model"):
        fetch_description(url, tmp_path, attempts=3, stream="all")


def test_a_transformer_in_a_folder_is_refused_before_its_weights_are_fetched(
    proxy: Proxy, s3: Any, tmp_path: Path
) -> None:
    """With the reason that a mounted folder gets."""
    prefix = "other/deeper/"
    modules = [{"type": "sentence_transformers.models.Transformer", "path": "0_Transformer"}]
    put(s3, f"{prefix}config.json", b"{}")
    put(s3, f"{prefix}modules.json", json.dumps(modules).encode())
    put(s3, f"{prefix}0_Transformer/model.safetensors", WEIGHTS)
    with pytest.raises(StartError, match="the Transformer lies in 0_Transformer"):
        fetch(tmp_path, url=f"s3://{BUCKET}/{prefix}")
    assert not proxy.ranges(f"{prefix}0_Transformer/model.safetensors")
    s3.delete_object(Bucket=BUCKET, Key=f"{prefix}modules.json")
    put(s3, f"{prefix}model.safetensors", WEIGHTS)
    assert not (fetch(tmp_path, url=f"s3://{BUCKET}/{prefix}") / "modules.json").exists()  # the bucket's word counts


def test_finished_shards_are_not_read_again(proxy: Proxy, s3: Any, tmp_path: Path) -> None:
    """After a start that failed at the second one."""
    first, second = (f"other/sharded/model-0000{number}-of-00002.safetensors" for number in (1, 2))
    shards = {name: Path(key).name for name, key in (("a", first), ("b", second))}
    put(s3, "other/sharded/config.json", b"{}")
    put(s3, "other/sharded/model.safetensors.index.json", json.dumps({"weight_map": shards}).encode())
    put(s3, "other/sharded/consolidated.safetensors", WEIGHTS)
    put(s3, first, WEIGHTS[:RANGE])
    put(s3, second, WEIGHTS)
    url = f"s3://{BUCKET}/other/sharded/"

    def refuse_second(request: Request) -> Fault | None:
        late = Fault(status=403, code="AccessDenied", seconds=0.3)
        return late if request.key == second and request.method == "GET" else None

    proxy.fault = refuse_second
    with pytest.raises(StartError, match="access denied"):
        fetch(tmp_path, url=url)
    proxy.fault = lambda _: None
    proxy.requests.clear()
    folder = fetch(tmp_path, url=url)
    assert {request.key for request in proxy.requests} == {"", second}
    assert (folder / Path(first).name).read_bytes() == WEIGHTS[:RANGE]
    assert {path.name for path in folder.glob("*.safetensors")} == set(shards.values())


def test_a_cut_body_is_not_read_twice(proxy: Proxy, tmp_path: Path) -> None:
    """The next attempt asks for the rest of the range."""
    proxy.fault = on_weights(Fault(cut_after=300_000), times=1)
    fetch(tmp_path)
    assert 2 * RANGE + 300_000 in [request.first_byte for request in proxy.requests]


def test_the_listing_is_tried_again_too(proxy: Proxy, tmp_path: Path) -> None:
    """503 to the first two requests of all."""
    left = [2]

    def busy(_: Request) -> Fault | None:
        left[0] -= 1
        return Fault(status=503, code="SlowDown") if left[0] >= 0 else None

    proxy.fault = busy
    assert_whole(fetch(tmp_path))


def test_a_truncated_object_is_refused(proxy: Proxy, tmp_path: Path) -> None:
    """Every answer ends before its announced length."""
    proxy.fault = lambda request: Fault(cut_after=1000) if request.key == KEY and request.method == "GET" else None
    with pytest.raises(StartError, match=r"model\.safetensors cannot be read: the connection broke in each of 3"):
        fetch(tmp_path)


@pytest.mark.parametrize("ignored", [(), ("if-match",)], ids=["s3", "without-if-match"])
def test_an_object_that_changes_during_the_read_is_refused(
    proxy: Proxy, s3: Any, tmp_path: Path, ignored: tuple[str, ...]
) -> None:
    """Another upload in the middle, also where a store knows no If-Match; the next start reads the new content."""
    changed = WEIGHTS[::-1]

    def swap(request: Request) -> Fault | None:
        if request.key == KEY and request.first_byte == 4 * RANGE:
            put(s3, KEY, changed)
        return Fault(ignored=ignored)

    proxy.fault = swap
    with pytest.raises(StartError, match="it changed while it was read; start again"):
        fetch(tmp_path)
    proxy.fault = lambda _: None
    assert (fetch(tmp_path) / "model.safetensors").read_bytes() == changed


def test_a_store_that_knows_no_ranges_is_refused(proxy: Proxy, tmp_path: Path) -> None:
    """Each would begin with the object's first byte, and not every object has a checksum."""
    proxy.fault = on_weights(Fault(ignored=("range",)))
    with pytest.raises(StartError, match="another range came than was asked for; check AWS_ENDPOINT_URL"):
        fetch(tmp_path)


@pytest.mark.usefixtures("proxy")
def test_a_changed_object_is_read_anew_at_the_next_start(s3: Any, tmp_path: Path) -> None:
    """And what the model no longer has is removed."""
    put(s3, "org/tiny/old.safetensors", b"old")
    s3.delete_object(Bucket=BUCKET, Key=KEY)
    assert (fetch(tmp_path) / "old.safetensors").is_file()
    s3.delete_object(Bucket=BUCKET, Key="org/tiny/old.safetensors")
    put(s3, KEY, WEIGHTS)
    assert_whole(fetch(tmp_path))


def test_a_refused_object_is_told_while_another_hangs(proxy: Proxy, s3: Any, tmp_path: Path) -> None:
    """Before anything of the folder is touched."""
    folder = fetch(tmp_path)
    put(s3, "org/tiny/config.json", b'{"version": 2}')
    put(s3, "org/tiny/a.json", b"{}")

    def decide(request: Request) -> Fault | None:
        if request.method != "HEAD":
            return None
        return Fault(seconds=30) if request.key.endswith("a.json") else Fault(status=403, seconds=0.5)

    proxy.fault = decide
    begin = time.monotonic()
    with pytest.raises(StartError, match="access denied"):
        fetch(tmp_path)
    assert time.monotonic() - begin < 10
    s3.delete_object(Bucket=BUCKET, Key="org/tiny/a.json")
    assert_whole(folder)


@pytest.mark.usefixtures("proxy")
def test_a_dead_process_leaves_nothing(tmp_path: Path) -> None:
    """Half a file and a record that cannot be read are replaced."""
    folder = fetch(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / ".model.safetensors.partial").write_bytes(b"half")
    (folder / "1_Gone").mkdir()
    (folder / "1_Gone/.config.json.partial").write_bytes(b"")
    (folder / ".finished.json").write_text("{")
    (folder / "config.json").write_text("cut")
    fetch(tmp_path)
    shutil.rmtree(folder / "1_Gone")
    assert_whole(folder)
    assert json.loads((folder / "config.json").read_text()) == {}


def test_progress_is_told_from_the_first_to_the_last_line(
    proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MB, MB/s and the seconds that are left."""
    monkeypatch.setattr(s3_fetch, "_PROGRESS_S", 0.1)
    proxy.fault = on_weights(Fault(seconds=1), times=1)
    with caplog.at_level(logging.INFO, "handler"):
        fetch(tmp_path)
    lines = [(record.msg, vars(record)) for record in caplog.records]
    weights = next(at for at, (event, fields) in enumerate(lines) if fields.get("what") == "weights")
    assert [event for event, _ in lines[weights:]] == [
        "fetching",
        *["fetch_progress"] * (len(lines) - weights - 2),
        "fetched",
    ]
    assert len(lines) - weights > 4
    middle = lines[-2][1]
    assert 0 < middle["mb"] < middle["total_mb"] == 5.2
    assert middle["mb_per_s"] > 0
    assert middle["eta_s"] > 0
    assert (lines[-1][1]["mb"], lines[-1][1]["files"]) == (5.2, 1)
