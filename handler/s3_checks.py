"""What S3 promises of an object's content, and whether what was read keeps it.

S3 keeps a checksum of the whole object (CRC32, CRC32C, CRC64NVME, SHA256, SHA1) or, of some multipart uploads, one of
its parts' checksums ("composite"); objects older than that have an MD5 as their ETag, unless they came in parts or are
encrypted with a key of KMS or of the caller.
Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

_CRC_BYTES = {"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8}
_HASHES = ("SHA256", "SHA1")
_MD5_ETAG = re.compile(r'(?:W/)?"?([0-9a-f]{32})"?')
_COMPOSITE = re.compile(r"(.+)-(\d+)")
_CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Check:
    """A promise: *expected* in base64; *part_bytes* where it is a checksum of the parts' checksums."""

    algorithm: str | None  # a CRC, a hash of those below or MD5; None: only the size is known
    expected: str = ""
    part_bytes: int | None = None

    def __str__(self) -> str:
        """Name the check for the log."""
        if self.algorithm is None:
            return "size"
        return f"size, {self.algorithm}" + (" of parts" if self.part_bytes else "")

    @property
    def crc(self) -> str | None:
        """The algorithm, if it can be computed of each range as it comes and combined afterwards."""
        return self.algorithm if self.algorithm in _CRC_BYTES and not self.part_bytes else None


def promised(head: Mapping[str, Any], *, first_part_bytes: Callable[[], int]) -> Check:
    """Choose the strongest check that *head*, HeadObject's answer in checksum mode, allows.

    Args:
        head: the answer.
        first_part_bytes: asks S3 for the size of the object's first part; called for composite checksums only.
    """
    for algorithm in (*_CRC_BYTES, *_HASHES):
        value = head.get(f"Checksum{algorithm}")
        if value is None:
            continue
        composite = _COMPOSITE.fullmatch(value)
        if composite is None and head.get("ChecksumType") != "COMPOSITE":
            return Check(algorithm, value)
        if composite is None:
            continue
        size, parts, part_bytes = head["ContentLength"], int(composite[2]), first_part_bytes()
        if part_bytes > 0 and -(-size // part_bytes) == parts:  # parts of one size, as far as can be seen
            return Check(algorithm, composite[1], part_bytes)
    md5 = _MD5_ETAG.fullmatch(head.get("ETag", ""))
    if md5 and head.get("ServerSideEncryption") in (None, "AES256") and not head.get("SSECustomerAlgorithm"):
        return Check("MD5", base64.b64encode(bytes.fromhex(md5[1])).decode())
    return Check(None)


def crc(algorithm: str, data: bytes | memoryview, before: int) -> int:
    """Continue the CRC *before* with *data*."""
    from awscrt import checksums  # noqa: PLC0415 - only users of S3 pay for it

    result: int = getattr(checksums, algorithm.lower())(data, before)
    return result


def combined(algorithm: str, ranges: Sequence[tuple[int, int]]) -> str:
    """Return the checksum of a whole object from (CRC, length in bytes) of its consecutive ranges."""
    from awscrt import checksums  # noqa: PLC0415 - see above

    combine = getattr(checksums, f"combine_{algorithm.lower()}")
    total = 0
    for value, length in ranges:
        total = combine(total, value, length)
    return base64.b64encode(total.to_bytes(_CRC_BYTES[algorithm], "big")).decode()


def file_keeps(check: Check, file: Path, *, sizes: Sequence[int] = ()) -> bool:
    """Read *file* and compare; for checks that ranges cannot be combined into.

    Args:
        check: what is promised.
        file: what came.
        sizes: of the parts in bytes, where they are not *part_bytes* each.
    """
    if check.algorithm is None:
        return True
    size = file.stat().st_size
    with file.open("rb") as stream:
        if check.part_bytes is None:
            digest = _digest(check.algorithm, stream, size)
        else:
            sizes = sizes or [min(check.part_bytes, size - begin) for begin in range(0, size, check.part_bytes)]
            digests = [_digest(check.algorithm, stream, part_bytes) for part_bytes in sizes]
            digest = _digest(check.algorithm, BytesIO(b"".join(digests)), sys.maxsize)
    return base64.b64encode(digest).decode() == check.expected


def _digest(algorithm: str, stream: Any, length: int) -> bytes:
    """Digest the next *length* bytes of *stream*, or as many as there are."""
    value = 0
    hashed = None if algorithm in _CRC_BYTES else hashlib.new(algorithm.lower(), usedforsecurity=False)
    while data := stream.read(min(_CHUNK_BYTES, length)):
        length -= len(data)
        if hashed is None:
            value = crc(algorithm, data, value)
        else:
            hashed.update(data)
    return value.to_bytes(_CRC_BYTES[algorithm], "big") if hashed is None else hashed.digest()
