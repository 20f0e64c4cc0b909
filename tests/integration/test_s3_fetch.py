"""Weights from S3 over real HTTP: moto's server in its own process, behind a proxy that breaks things."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.config import Config

from handler import s3_fetch, s3_folder
from handler.errors import StartError
from handler.s3_model import fetch_description
from tests.s3_server import BUCKET, CREDENTIALS, Fault, Proxy, Request, moto_server

SIZE = 5 * 2**20 + 17  # bytes of the weights: several ranges, the last one odd
RANGE = 2**20
WEIGHTS = np.random.default_rng(0).bytes(SIZE)
KEY = "org/tiny/model.safetensors"
URL = f"s3://{BUCKET}/org/tiny/"


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    """One moto for all tests of this file."""
    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def s3(upstream: str) -> Any:
    """Talk to moto directly, to put objects there."""
    session = boto3.Session("x", "x", region_name="us-east-1")
    config = Config(request_checksum_calculation="when_required")  # the tests choose which checksum an object has
    client = session.client("s3", endpoint_url=upstream, config=config)
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def proxy(upstream: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A fresh model in the bucket, and the way to it that can be broken."""
    put(s3, KEY, WEIGHTS)
    put(s3, "org/tiny/config.json", b"{}")
    put(s3, "org/tiny/README.md", b"# a model card")
    proxy = Proxy(upstream)
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": proxy.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_fetch, "_RANGE_BYTES", RANGE)
    monkeypatch.setattr(s3_fetch, "_LONGEST_PAUSE_S", 0.01)
    yield proxy
    proxy.close()


def put(s3: Any, key: str, body: bytes, **options: str) -> None:
    """Upload one object."""
    s3.put_object(Bucket=BUCKET, Key=key, Body=body, **options)


def fetch(cache: Path, *, url: str = URL, attempts: int = 3) -> Path:
    """Fetch the whole model into a folder under *cache*."""
    folder, fetch_weights = fetch_description(url, cache, attempts=attempts, stream=False)
    fetch_weights()
    return folder


def on_weights(fault: Fault, *, first_byte: int = 2 * RANGE, times: int = 10**6) -> Any:
    """Break the first *times* reads of one range of the weights."""
    left = [times]

    def decide(request: Request) -> Fault | None:
        at = None if request.first_byte is None else request.first_byte // RANGE * RANGE
        hit = request.key == KEY and request.method == "GET" and at == first_byte and left[0] > 0
        left[0] -= hit
        return fault if hit else None

    return decide


def assert_whole(folder: Path) -> None:
    """The files are there, byte by byte, and nothing else is."""
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert {path.name for path in folder.iterdir()} == {".finished.json", ".lock", "config.json", "model.safetensors"}


def test_a_model_is_fetched_and_found_again(proxy: Proxy, tmp_path: Path) -> None:
    """In ranges, without the model card; the second start reads nothing but the listing."""
    folder = fetch(tmp_path)
    assert_whole(folder)
    assert proxy.ranges(KEY) == 6
    assert not proxy.ranges("org/tiny/README.md")
    seen = len(proxy.requests)
    assert fetch(tmp_path) == folder
    assert [request.key for request in proxy.requests[seen:]] == [""]


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_slash_at_the_end_may_be_missing(proxy: Proxy, tmp_path: Path, slash: str) -> None:
    """And it is the same folder."""
    put_folder = fetch(tmp_path, url=URL.rstrip("/") + slash)
    assert put_folder == fetch(tmp_path)


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


def test_an_object_that_changes_during_the_read_is_refused(proxy: Proxy, s3: Any, tmp_path: Path) -> None:
    """Another upload in the middle; the next start reads the new content."""
    changed = WEIGHTS[::-1]

    def swap(request: Request) -> Fault | None:
        if request.key == KEY and request.first_byte == 4 * RANGE:
            put(s3, KEY, changed)
        return None

    proxy.fault = swap
    with pytest.raises(StartError, match="it changed while it was read; start again"):
        fetch(tmp_path)
    proxy.fault = lambda _: None
    assert (fetch(tmp_path) / "model.safetensors").read_bytes() == changed


def test_a_changed_object_is_read_anew_at_the_next_start(proxy: Proxy, s3: Any, tmp_path: Path) -> None:
    """And what the model no longer has is removed."""
    put(s3, "org/tiny/old.safetensors", b"old")
    s3.delete_object(Bucket=BUCKET, Key=KEY)
    assert (fetch(tmp_path) / "old.safetensors").is_file()
    s3.delete_object(Bucket=BUCKET, Key="org/tiny/old.safetensors")
    put(s3, KEY, WEIGHTS)
    assert_whole(fetch(tmp_path))


def crc64(data: bytes) -> str:
    """S3's default checksum."""
    from awscrt.checksums import crc64nvme

    return base64.b64encode(crc64nvme(data).to_bytes(8, "big")).decode()


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA256", "SHA1", None])
def test_s3s_own_checksum_is_checked(
    proxy: Proxy, s3: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, algorithm: str | None
) -> None:
    """Whichever the object has, else the MD5 that is its ETag; a DEBUG line names it."""
    options = {"ChecksumAlgorithm": algorithm} if algorithm not in (None, "CRC64NVME") else {}
    if algorithm == "CRC64NVME":  # moto does not compute it
        proxy.fault = lambda request: (
            Fault(headers={"x-amz-checksum-crc64nvme": crc64(WEIGHTS)})
            if request.method == "HEAD" and request.key == KEY
            else None
        )
    put(s3, KEY, WEIGHTS, **options)
    with caplog.at_level(logging.DEBUG, "handler"):
        assert_whole(fetch(tmp_path))
    checked = {
        vars(record)["object"]: vars(record)["checked"] for record in caplog.records if record.msg == "fetched_file"
    }
    assert checked[f"s3://{BUCKET}/{KEY}"] == f"size, {algorithm or 'MD5'}"


@pytest.mark.parametrize(
    "header",
    [
        {"x-amz-checksum-crc32": base64.b64encode(zlib.crc32(b"other").to_bytes(4, "big")).decode()},
        {"x-amz-checksum-crc64nvme": crc64(b"other")},
        {"x-amz-checksum-sha256": base64.b64encode(b"\0" * 32).decode()},
    ],
    ids=["crc32", "crc64nvme", "sha256"],
)
def test_a_wrong_checksum_is_refused(proxy: Proxy, tmp_path: Path, header: dict[str, str]) -> None:
    """Right length, other bytes than S3 was given."""
    proxy.fault = lambda request: Fault(headers=header) if request.method == "HEAD" and request.key == KEY else None
    with pytest.raises(StartError, match="than S3 keeps of it"):
        fetch(tmp_path)
    assert not list(tmp_path.rglob("model.safetensors"))


def test_the_checksum_of_parts_is_checked(
    proxy: Proxy, s3: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """S3's "composite" ones: the first part's size, asked of S3, says where the parts begin."""
    part = 2 * 2**20
    crcs = b"".join(zlib.crc32(WEIGHTS[at : at + part]).to_bytes(4, "big") for at in range(0, SIZE, part))
    composite = base64.b64encode(zlib.crc32(crcs).to_bytes(4, "big")).decode() + "-3"

    def head(request: Request) -> Fault | None:
        if request.method != "HEAD" or request.key != KEY:
            return None
        length = {"content-length": str(part)} if "partNumber" in request.path else {}
        return Fault(headers={"x-amz-checksum-crc32": composite, "x-amz-checksum-type": "COMPOSITE", **length})

    proxy.fault = head
    with caplog.at_level(logging.DEBUG, "handler"):
        assert_whole(fetch(tmp_path))
    assert "size, CRC32 of parts" in [vars(record).get("checked") for record in caplog.records]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://no-such-bucket/x/", "there is no such bucket; check EMBED_MODEL_PATH"),
        (f"s3://{BUCKET}/nothing/here/", "holds no object"),
        (f"s3://{BUCKET}/org/", r"has no config\.json \(there is one under tiny/\)"),
        (f"s3://{BUCKET}/org/tin", "holds no object"),
        ("s3://", "is not of the form"),
        ("s3:///x", "is not of the form"),
        ("s3://UPPER case/x", "is not of the form"),
    ],
)
def test_a_wrong_url_is_told(proxy: Proxy, tmp_path: Path, url: str, said: str) -> None:
    """Bucket, prefix or form."""
    with pytest.raises(StartError, match=said):
        fetch(tmp_path, url=url)


@pytest.mark.parametrize("where", ["", KEY])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(status=403, code="AccessDenied"), f"access denied .*s3:ListBucket on bucket {BUCKET} and s3:GetObject"),
        (Fault(status=400, code="ExpiredToken"), "credentials have expired"),
        (Fault(status=403, code="InvalidAccessKeyId"), "credentials are refused"),
        (Fault(status=404, code="NoSuchKey"), "it was deleted while it was read"),
        (Fault(status=403, code="InvalidObjectState"), "it is archived"),
        (Fault(status=403, code="RequestTimeTooSkewed"), "clock is wrong"),
        (Fault(status=418, code="Odd"), "S3 refused with Odd"),
    ],
    ids=lambda value: value.code if isinstance(value, Fault) else "",
)
def test_a_refusal_is_told_once(proxy: Proxy, tmp_path: Path, where: str, fault: Fault, said: str) -> None:
    """Of the listing or of an object in the middle; one line, no second attempt, no secret."""
    proxy.fault = lambda request: fault if request.key == where and request.method == "GET" else None
    with pytest.raises(StartError, match=said) as refused:
        fetch(tmp_path)
    assert "\n" not in str(refused.value)
    assert "very-secret-key" not in str(refused.value)
    assert proxy.ranges("") == 1


def test_another_region_is_told(proxy: Proxy, tmp_path: Path) -> None:
    """With the region to set."""
    proxy.fault = lambda _: Fault(status=301, code="PermanentRedirect", headers={"x-amz-bucket-region": "eu-central-1"})
    with pytest.raises(StartError, match=r"another region|not of"):
        fetch(tmp_path)


def test_nobody_listens(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint, the network or the region."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StartError, match=r"no connection in 2 attempts .*the container needs a route to S3"):
        fetch(tmp_path, attempts=2)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("AWS_DEFAULT_REGION", "eu_nowhere!", "set AWS_DEFAULT_REGION to the bucket's region"),
        ("AWS_ENDPOINT_URL", "nowhere", "Invalid endpoint"),
        ("AWS_PROFILE", "nobody", "AWS configuration"),
    ],
)
def test_a_wrong_aws_setting_is_told(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    """What boto3 itself refuses."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartError, match=said):
        fetch(tmp_path)


def test_without_credentials_the_bucket_is_read_as_by_anybody(
    proxy: Proxy, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A public one works; a private one says that credentials are missing."""
    s3.put_bucket_acl(Bucket=BUCKET, ACL="public-read")
    put(s3, KEY, WEIGHTS, ACL="public-read")
    put(s3, "org/tiny/config.json", b"{}", ACL="public-read")
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    assert_whole(fetch(tmp_path))
    proxy.fault = lambda _: Fault(status=403, code="AccessDenied")
    with pytest.raises(StartError, match="no AWS credentials were found; give the container a role"):
        fetch(tmp_path)


def test_a_disk_that_is_too_small_is_told_before(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is needed and what is free; no range is read."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(s3_folder.shutil, "disk_usage", lambda _: usage._replace(free=20 * 10**6))
    with pytest.raises(StartError, match=r"need 5\.2 MB, 20\.0 MB are free"):
        fetch(tmp_path)
    assert not proxy.ranges(KEY)


def test_a_folder_that_cannot_be_written_is_told(proxy: Proxy) -> None:
    """A read-only disk, say."""
    with pytest.raises(StartError, match="cannot be written: .*set EMBED_CACHE_DIR"):
        fetch(Path("/proc/nowhere"))


def test_a_dead_process_leaves_nothing(proxy: Proxy, tmp_path: Path) -> None:
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
