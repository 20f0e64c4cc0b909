"""The local folder of a model in a bucket: who may write into it, what of it is finished, and what is rubbish.

Processes change a folder in turns, and not while one of them still loads what is in it. Both are locks that the kernel
drops with the process. In its turn a process knows: whatever is not recorded as finished was left by one that died, and
whatever is recorded with the object's present ETag is whole.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from handler.errors import StartError
from handler.s3 import S3Object

log = logging.getLogger(__name__)

PARTIAL = ".partial"
_RECORD = ".finished.json"  # file -> ETag
_TURN = ".lock"  # held by the one process that looks at the folder, and may change it
_USE = ".in_use"  # shared by those that load what is there; taken only by the process whose turn it is
_SPARE_BYTES = 16 * 2**20  # what must stay free on the disk


class Turn:
    """This process's turn to look at *folder* and to change it, and afterwards its share in what is there.

    Processes that change nothing load at the same time; one that does waits until the others have loaded.
    """

    def __init__(self, folder: Path) -> None:
        """Make *folder* and wait for the turn; *waited* tells whether that took any time.

        Raises:
            StartError: it cannot be made or locked.
        """
        self.folder = folder
        self.waited = False
        self._descriptors: dict[str, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (_TURN, _USE):
                self._descriptors[name] = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._lock(_TURN, fcntl.LOCK_EX, "another process fetches into this folder")
        except OSError as exc:
            self.release()
            raise disk_error(exc, folder) from exc
        except StartError:
            self.release()
            raise

    def wait_to_change(self) -> None:
        """Wait for those who still load what is in the folder; before any change, at once where it has waited."""
        self._lock(_USE, fcntl.LOCK_EX, "another process still loads what is in this folder")

    def end(self) -> None:
        """Let the next process have its turn; what is there stays as it is until `release`."""
        if _TURN in self._descriptors:
            self._lock(_USE, fcntl.LOCK_SH, "")
            self._unlock(_TURN)

    def release(self) -> None:
        """Let others change what is there."""
        for name in list(self._descriptors):
            self._unlock(name)

    def _lock(self, name: str, how: int, reason: str) -> None:
        descriptor = self._descriptors[name]
        try:
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except BlockingIOError:
                self.waited = True
                log.info("fetch_waits", extra={"reason": reason, "folder": str(self.folder)})
                fcntl.flock(descriptor, how)
        except OSError as exc:  # some network file systems have no locks
            message = f"{self.folder} cannot be locked: {exc.strerror}; set EMBED_CACHE_DIR to a folder on a local disk"
            raise StartError(message) from exc

    def _unlock(self, name: str) -> None:
        descriptor = self._descriptors.pop(name)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough: forked processes have the file open too
        os.close(descriptor)


def clear(turn: Turn, wanted: Iterable[S3Object]) -> None:
    """Remove from a folder what dead processes left and what the model no longer has: vLLM would load old shards.

    Raises:
        StartError: the folder cannot be written.
    """
    folder = turn.folder
    kept = {*(entry.name for entry in wanted), _RECORD, _TURN, _USE}
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    if rubbish := files.keys() - kept:
        turn.wait_to_change()
        record = read_record(folder)
        try:
            for name in rubbish:
                files[name].unlink()
            write_record(folder, {name: etag for name, etag in record.items() if name not in rubbish})
        except OSError as exc:
            raise disk_error(exc, folder) from exc


def is_finished(entry: S3Object, folder: Path, record: dict[str, str]) -> bool:
    """Whether *folder* holds the present content of *entry*."""
    file = folder / entry.name
    return record.get(entry.name) == entry.etag and file.is_file() and file.stat().st_size == entry.size


def read_record(folder: Path) -> dict[str, str]:
    """Return the ETag of each finished file."""
    try:
        record = json.loads((folder / _RECORD).read_bytes())
    except (OSError, ValueError, RecursionError):
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
