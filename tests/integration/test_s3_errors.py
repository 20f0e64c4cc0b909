"""Every way in which a model in a bucket cannot be fetched: one line with cause and remedy."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from handler.errors import StartError
from tests.integration.tiny_bucket import KEY, RANGE, WEIGHTS, assert_whole, fetch, put
from tests.s3_server import BUCKET, CREDENTIALS, Fault, Proxy, Request


@pytest.mark.usefixtures("proxy")
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
def test_a_wrong_url_is_told(tmp_path: Path, url: str, said: str) -> None:
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
        (Fault(status=400, code="KMS.DisabledException"), "the KMS key that encrypts it cannot be used"),
        (Fault(status=407, body="<html>log in</html>"), r"a proxy wants a name and password \(407\)"),
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
    with pytest.raises(StartError, match=r"the bucket is in another region .*, which is eu-central-1"):
        fetch(tmp_path)


def test_a_redirect_to_another_region_is_followed(proxy: Proxy, tmp_path: Path) -> None:
    """As S3 answers a client of another region first; it is no attempt."""
    left = [1]

    def redirect(_: Request) -> Fault | None:
        left[0] -= 1
        headers = {"x-amz-bucket-region": "eu-central-1"}
        return Fault(status=301, code="PermanentRedirect", headers=headers) if left[0] >= 0 else None

    proxy.fault = redirect
    assert_whole(fetch(tmp_path, attempts=1))


@pytest.mark.usefixtures("proxy")
def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint, the network or the region."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StartError, match=r"no connection in 2 attempts .*the container needs a route to S3"):
        fetch(tmp_path, attempts=2)


def test_what_is_no_s3_is_told(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that answers 200, and an endpoint without TLS."""
    proxy.fault = lambda _: Fault(status=200, body="<html>welcome</html>")
    with pytest.raises(StartError, match="what answered is no S3; check AWS_ENDPOINT_URL"):
        fetch(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url.replace("http:", "https:"))
    with pytest.raises(StartError, match="speaks no TLS; write http:// in AWS_ENDPOINT_URL"):
        fetch(tmp_path)


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize("endpoint", ["http://me:hidden@127.0.0.1:9", "http//me:hidden@127.0.0.1"])
def test_the_password_of_an_endpoint_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    """Nobody reaches it, or it is none."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StartError, match=r"\*\*\*@127") as refused:
        fetch(tmp_path, attempts=1)
    assert "hidden" not in str(refused.value)


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("AWS_DEFAULT_REGION", "eu_nowhere!", "set AWS_DEFAULT_REGION to the bucket's region"),
        ("AWS_ENDPOINT_URL", "nowhere", "Invalid endpoint"),
        ("AWS_PROFILE", "nobody", "AWS configuration"),
        ("AWS_SECRET_ACCESS_KEY", "", "AWS credentials are missing or incomplete"),
    ],
)
def test_a_wrong_aws_setting_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
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


@pytest.mark.usefixtures("proxy")
def test_a_disk_that_fills_up_in_the_middle_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else writes there too; it is no broken connection, so there is no second attempt."""
    write = os.pwrite
    written: list[int] = []

    def fill_up(descriptor: int, data: memoryview, offset: int) -> int:
        if offset >= 2 * RANGE:
            written.append(offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", fill_up)
    with pytest.raises(StartError, match=r"the disk of \S+ is full; set EMBED_CACHE_DIR to a larger disk"):
        fetch(tmp_path)
    assert written
    assert len(written) == len(set(written))
    monkeypatch.undo()
    assert not list(tmp_path.rglob("model.safetensors"))


@pytest.mark.usefixtures("proxy")
def test_a_folder_that_cannot_be_written_is_told() -> None:
    """A read-only disk, say."""
    with pytest.raises(StartError, match=r"cannot be written: .*set EMBED_CACHE_DIR"):
        fetch(Path("/proc/nowhere"))
