"""The local folder of a model in a bucket: who may write into it, what of it is finished, and what is rubbish.

A folder belongs to one process at a time by a lock that the kernel drops with the process. Under it whatever is not
recorded as finished was left by a process that died, and whatever is recorded with the object's present ETag is whole.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from handler.errors import StartError
from handler.s3 import S3Object

log = logging.getLogger(__name__)

PARTIAL = ".partial"
_RECORD = ".finished.json"  # file -> ETag
_LOCK = ".lock"
_SPARE_BYTES = 16 * 2**20  # what must stay free on the disk


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make *folder* and hold it for this process alone.

    Raises:
        StartError: it cannot be made or locked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise disk_error(exc, folder) from exc
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("fetch_waits", extra={"reason": "another process fetches into this folder", "folder": str(folder)})
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as exc:  # some network file systems have no locks
        message = f"{folder} cannot be locked: {exc.strerror}; set EMBED_CACHE_DIR to a folder on a local disk"
        raise StartError(message) from exc


def clear(folder: Path, wanted: Iterable[S3Object]) -> None:
    """Remove from *folder* what dead processes left and what the model no longer has: vLLM would load old shards."""
    record = read_record(folder)
    names = {entry.name for entry in wanted}
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        name = path.relative_to(folder).as_posix()
        if name not in names and name not in (_RECORD, _LOCK):
            path.unlink()
            record.pop(name, None)
    write_record(folder, record)


def is_finished(entry: S3Object, folder: Path, record: dict[str, str]) -> bool:
    """Whether *folder* holds the present content of *entry*."""
    file = folder / entry.name
    return record.get(entry.name) == entry.etag and file.is_file() and file.stat().st_size == entry.size


def read_record(folder: Path) -> dict[str, str]:
    """Return the ETag of each finished file."""
    try:
        record = json.loads((folder / _RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(folder: Path, record: dict[str, str]) -> None:
    """Replace the record in one step."""
    partial = folder / (_RECORD + PARTIAL)
    partial.write_text(json.dumps(record))
    partial.replace(folder / _RECORD)


def check_space(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold."""
    free = shutil.disk_usage(folder).free
    if needed and needed + _SPARE_BYTES > free:
        megabytes = f"{(needed + _SPARE_BYTES) / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free"
        remedy = "set EMBED_CACHE_DIR to a larger disk, or give the container more of it"
        message = f"the disk of {folder} is too small: {megabytes}; {remedy}"
        raise StartError(message)


def disk_error(exc: OSError, folder: Path) -> StartError:
    """Say what a failed write means."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return StartError(f"the disk of {folder} is full; set EMBED_CACHE_DIR to a larger disk")
    return StartError(f"{folder} cannot be written: {exc.strerror or exc}; set EMBED_CACHE_DIR to a folder that can")
