from __future__ import annotations

import base64
import hashlib
import zlib
from pathlib import Path
from typing import Any

import pytest

from handler import s3_checks
from handler.s3_checks import Check, promised

DATA = bytes(range(256)) * 50
# the check values that the algorithms' catalogues give for these nine bytes
NINE = b"123456789"
CRCS = {"CRC32": 0xCBF43926, "CRC32C": 0xE3069283, "CRC64NVME": 0xAE8B14860A799888}


def never() -> int:
    """Stand for a question that must not be asked."""
    raise AssertionError


def head(**more: Any) -> dict[str, Any]:
    """HeadObject's answer."""
    return {"ContentLength": len(DATA), "ETag": f'"{hashlib.md5(DATA, usedforsecurity=False).hexdigest()}"', **more}


@pytest.mark.parametrize("algorithm", CRCS)
def test_crcs_are_the_catalogues(algorithm: str) -> None:
    """Of a whole, and combined from ranges of any length."""
    assert s3_checks.crc(algorithm, NINE, 0) == CRCS[algorithm]
    ranges = [(s3_checks.crc(algorithm, part, 0), len(part)) for part in (NINE[:2], NINE[2:8], NINE[8:], b"")]
    length = 8 if algorithm == "CRC64NVME" else 4
    assert base64.b64decode(s3_checks.combined(algorithm, ranges)) == CRCS[algorithm].to_bytes(length, "big")


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({"ChecksumCRC64NVME": "x", "ChecksumType": "FULL_OBJECT"}, "size, CRC64NVME"),
        ({"ChecksumSHA256": "x"}, "size, SHA256"),
        ({"ServerSideEncryption": "AES256"}, "size, MD5"),
        ({"ServerSideEncryption": "aws:kms"}, "size"),
        ({"SSECustomerAlgorithm": "AES256"}, "size"),
        ({"ETag": '"0123456789abcdef0123456789abcdef-7"'}, "size"),
        ({"ChecksumCRC32": "x", "ChecksumType": "COMPOSITE", "ETag": '"x-3"'}, "size"),
    ],
)
def test_the_strongest_promise_is_chosen(more: dict[str, str], shown: str) -> None:
    """An ETag is an MD5 only of what came in one piece and is not encrypted with a key of somebody's."""
    assert str(promised(head(**more), first_part_bytes=never)) == shown


@pytest.mark.parametrize(("part_bytes", "shown"), [(5000, "size, CRC32 of parts"), (2000, "size"), (0, "size")])
def test_parts_of_unequal_size_cannot_be_found_again(part_bytes: int, shown: str) -> None:
    """The first part's size must lead to the number of parts that S3 tells."""
    composite = {"ChecksumCRC32": "x-3", "ETag": '"x-3"'}
    assert str(promised(head(**composite), first_part_bytes=lambda: part_bytes)) == shown


@pytest.mark.parametrize("part_bytes", [None, 5000])
@pytest.mark.parametrize("algorithm", ["CRC32", "SHA256", "SHA1", "MD5"])
def test_a_file_is_compared(tmp_path: Path, algorithm: Any, part_bytes: int | None) -> None:
    """Whole or by its parts; one other byte shows."""

    def digest(data: bytes) -> bytes:
        if algorithm == "CRC32":
            return zlib.crc32(data).to_bytes(4, "big")
        return hashlib.new(algorithm.lower(), data, usedforsecurity=False).digest()

    parts = [digest(DATA[at : at + 5000]) for at in range(0, len(DATA), 5000)]
    expected = base64.b64encode(digest(b"".join(parts)) if part_bytes else digest(DATA)).decode()
    file = tmp_path / "file"
    file.write_bytes(DATA)
    assert s3_checks.file_keeps(Check(algorithm, expected, part_bytes), file)
    file.write_bytes(DATA[:-1] + b"x")
    assert not s3_checks.file_keeps(Check(algorithm, expected, part_bytes), file)
