"""What came is compared with what S3 keeps of it."""

from __future__ import annotations

import base64
import itertools
import logging
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from handler.errors import StartError
from tests.integration.tiny_bucket import KEY, RANGE, SIZE, WEIGHTS, assert_whole, fetch, put
from tests.s3_server import BUCKET, Fault, Proxy, Request


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


def parts_head(sizes: list[int], told: list[int]) -> Any:
    """Answer HEAD as S3 does of an object in parts of *sizes*; *told* are those that it tells when asked for a part."""
    ends = list(itertools.accumulate(sizes))
    crcs = b"".join(
        zlib.crc32(WEIGHTS[end - size : end]).to_bytes(4, "big") for size, end in zip(sizes, ends, strict=True)
    )
    composite = base64.b64encode(zlib.crc32(crcs).to_bytes(4, "big")).decode() + f"-{len(sizes)}"

    def head(request: Request) -> Fault | None:
        if request.method != "HEAD" or request.key != KEY:
            return None
        asked = re.search(r"partNumber=(\d+)", request.path)
        length = {"content-length": str(told[int(asked[1]) - 1])} if asked else {}
        return Fault(
            headers={"x-amz-checksum-crc32": composite, "x-amz-checksum-type": "COMPOSITE", **length},
            ignored=("partnumber",),
        )

    return head


EVEN = [2 * RANGE, 2 * RANGE, SIZE - 4 * RANGE]
UNEVEN = [2 * RANGE, 3 * RANGE // 2, SIZE - 7 * RANGE // 2]


@pytest.mark.parametrize(
    ("head", "checked"),
    [
        (parts_head(EVEN, EVEN), "size, CRC32 of parts"),
        (parts_head(UNEVEN, UNEVEN), "size, CRC32 of parts"),
        (parts_head(UNEVEN, [2 * RANGE] * 3), "size"),
    ],
    ids=["one-size", "uneven", "not-told"],
)
def test_the_checksum_of_parts_is_checked(
    proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture, head: Any, checked: str
) -> None:
    """S3's "composite" ones: the first part's size says where the parts begin, else each part's, else nothing does."""
    proxy.fault = head
    with caplog.at_level(logging.DEBUG, "handler"):
        assert_whole(fetch(tmp_path))
    lines = {vars(record).get("object"): vars(record).get("checked") for record in caplog.records}
    assert lines[f"s3://{BUCKET}/{KEY}"] == checked


def test_a_wrong_checksum_of_parts_is_refused(proxy: Proxy, s3: Any, tmp_path: Path) -> None:
    """Whatever the sizes of the parts are."""
    put(s3, KEY, WEIGHTS[:-1] + b"?")
    for sizes in (EVEN, UNEVEN):
        proxy.fault = parts_head(sizes, sizes)
        with pytest.raises(StartError, match="another CRC32 than S3 keeps of it"):
            fetch(tmp_path)


@pytest.mark.parametrize("form", ["W/{}", "{}"], ids=["weak", "unquoted"])
def test_other_forms_of_an_etag_are_the_same(proxy: Proxy, s3: Any, tmp_path: Path, form: str) -> None:
    """A proxy that compresses makes them weak, some stores leave out the quotes."""
    etag = s3.head_object(Bucket=BUCKET, Key=KEY)["ETag"].strip('"')
    told = form.format(f'"{etag}"' if "W" in form else etag)
    proxy.fault = lambda request: Fault(headers={"etag": told}) if request.key == KEY else None
    assert_whole(fetch(tmp_path))


def test_a_store_without_etags_is_refused(proxy: Proxy, tmp_path: Path) -> None:
    """Nothing else shows whether an object changes."""
    proxy.fault = lambda request: Fault(headers={"etag": ""}) if request.key == KEY else None
    with pytest.raises(StartError, match=r"model\.safetensors cannot be read: S3 told no ETag"):
        fetch(tmp_path)
