"""Objects of a bucket to files of a folder: ranges in parallel, each file checked and then renamed into place."""

from __future__ import annotations

import errno
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handler.errors import StartError
from handler.s3 import S3Location, S3Object, etag_of
from handler.s3_checks import Check, combined, crc, file_keeps, promised
from handler.s3_errors import explained, is_passing
from handler.s3_folder import PARTIAL, Turn, check_space, disk_error, is_finished, read_record, write_record

log = logging.getLogger(__name__)

READERS = 16  # one connection to S3 carries about 80 MB/s
_RANGE_BYTES = 16 * 2**20
_BUFFER_BYTES = 2**20  # with 256 kB the readers contend with the imports for the interpreter: a fifth more seconds
_PROGRESS_S = 2.0
_LONGEST_PAUSE_S = 5.0
_STOPPING_S = 1.0  # for the other readers when one has failed; those that wait for S3 are left behind


@dataclass(frozen=True, slots=True)
class Source:
    """A bucket as this process may read it; *client* makes one attempt per call, the attempts are counted here."""

    client: Any
    location: S3Location
    attempts: int
    anonymous: bool


class _Tally:
    """Bytes read so far by all readers, and the sign for them to stop."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.stopped = threading.Event()
        self._begin = time.monotonic()
        self._read = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._read += count

    def fields(self) -> dict[str, float]:
        seconds = max(time.monotonic() - self._begin, 1e-3)
        return {"mb": _mb(self._read), "seconds": round(seconds, 1), "mb_per_s": _mb(self._read / seconds)}

    def tell_until_stopped(self) -> None:
        """Log a line every few seconds."""
        while not self.stopped.wait(_PROGRESS_S):
            told = self.fields()
            eta = round((self.total - self._read) / 1e6 / told["mb_per_s"], 1) if told["mb_per_s"] else None
            log.info("fetch_progress", extra={**told, "total_mb": _mb(self.total), "eta_s": eta})


@dataclass(slots=True)
class _Range:
    """Bytes *begin* to *end* of an object: how far they have been read, and the CRC so far."""

    begin: int
    end: int
    offset: int
    crc: int = 0


@dataclass(slots=True)
class _File:
    """An object on its way to *target*, with the check that it will get."""

    entry: S3Object
    target: Path
    partial: Path
    check: Check
    ranges: list[_Range]
    missing: int  # ranges that have not come yet


def _mb(count: float) -> float:
    return round(count / 1e6, 1)


def fetch(source: Source, objects: Collection[S3Object], turn: Turn, *, what: str) -> None:
    """Make the folder of *turn* hold *objects*; others that it held before stay.

    Raises:
        StartError: with cause and remedy.
    """
    folder = turn.folder
    record = read_record(folder)
    missing = [entry for entry in objects if not is_finished(entry, folder, record)]
    if missing:
        turn.wait_to_change()
    tally = _Tally(sum(entry.size for entry in missing))
    told: dict[str, object] = {"what": what, "bucket": source.location.bucket, "prefix": source.location.prefix}
    told |= {"files": len(missing), "files_kept": len(objects) - len(missing)}
    log.info("fetching", extra={**told, "total_mb": _mb(tally.total), "folder": str(folder)})
    readers = ThreadPoolExecutor(READERS, thread_name_prefix="fetch")
    threading.Thread(target=tally.tell_until_stopped, name="fetch-progress", daemon=True).start()
    transfer = _Transfer(source, folder, record, tally)
    reading: list[Future[None]] = []
    try:
        promises = [readers.submit(transfer.promise, entry) for entry in missing]
        for future in as_completed(promises):  # a refusal is told while others still hang
            future.result()
        for entry in missing:  # older content goes now: its space may be needed
            (folder / entry.name).unlink(missing_ok=True)
        check_space(folder, tally.total)
        files = [transfer.begin(entry, promise.result()) for entry, promise in zip(missing, promises, strict=True)]
        reading += [readers.submit(transfer.read_range, file, part) for file in files for part in file.ranges]
        for read in as_completed(reading):
            read.result()
    except OSError as exc:
        raise disk_error(exc, folder) from exc
    finally:
        tally.stopped.set()
        readers.shutdown(wait=False, cancel_futures=True)
        wait(reading, _STOPPING_S)
    log.info("fetched", extra={**told, **tally.fields()})


class _Transfer:
    """One fetch into one folder; its methods run in the readers' threads."""

    def __init__(self, source: Source, folder: Path, record: dict[str, str], tally: _Tally) -> None:
        self._source = source
        self._folder = folder
        self._record = record
        self._tally = tally
        self._lock = threading.Lock()  # of the record and of the counts of missing ranges

    def promise(self, entry: S3Object) -> Check:
        """Ask what S3 knows of an object's content."""
        head = self._head(entry)
        self._same(entry, head)
        return promised(head, first_part_bytes=lambda: int(self._head(entry, PartNumber=1)["ContentLength"]))

    def begin(self, entry: S3Object, check: Check) -> _File:
        """Make the object's empty file."""
        target = self._folder / entry.name
        partial = target.with_name(f".{target.name}{PARTIAL}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            stream.truncate(entry.size)
        begins = range(0, max(entry.size, 1), _RANGE_BYTES)  # an empty object has one range, which is empty
        ranges = [_Range(begin, min(begin + _RANGE_BYTES, entry.size), begin) for begin in begins]
        return _File(entry, target, partial, check, ranges, missing=len(ranges))

    def read_range(self, file: _File, part: _Range) -> None:
        """Read one range, in as many attempts as it takes; the reader of the last one finishes the file."""
        if part.end > part.begin:
            with file.partial.open("r+b", buffering=0) as stream:
                self._attempt(file.entry, lambda: self._read(file, part, stream.fileno()))
        with self._lock:
            file.missing -= 1
            is_last = not file.missing
        if is_last:
            self._finish(file)

    def _read(self, file: _File, part: _Range, descriptor: int) -> None:
        """Go on in *part*: what has come before the connection broke is not read again."""
        location, last = self._source.location, part.end - 1
        wanted = {"Range": f"bytes={part.offset}-{last}", "IfMatch": file.entry.etag}
        answer = self._source.client.get_object(Bucket=location.bucket, Key=file.entry.key, **wanted)
        buffer = memoryview(bytearray(min(_BUFFER_BYTES, part.end - part.offset)))
        with answer["Body"] as body:
            self._same(file.entry, answer)  # some stores and proxies do not know If-Match
            if answer.get("ContentRange") != f"bytes {part.offset}-{last}/{file.entry.size}":
                what = location.object_url(file.entry.key)
                remedy = "check AWS_ENDPOINT_URL and proxies"
                message = f"{what} cannot be read: another range came than was asked for; {remedy}"
                raise StartError(message)
            while part.offset < part.end and not self._tally.stopped.is_set():
                count = body.readinto(buffer[: part.end - part.offset])
                if not count:
                    raise ConnectionResetError(errno.ECONNRESET, "the body ended early")
                data = buffer[:count]
                self._write(descriptor, data, part.offset)
                if file.check.crc:
                    part.crc = crc(file.check.crc, data, part.crc)
                part.offset += count
                self._tally.add(count)

    def _write(self, descriptor: int, data: memoryview, offset: int) -> None:
        while data:
            try:
                count = os.pwrite(descriptor, data, offset)
            except OSError as exc:  # not one of the connection, which would be tried again
                raise disk_error(exc, self._folder) from exc
            data, offset = data[count:], offset + count

    def _finish(self, file: _File) -> None:
        """Check the file, give it its name, and note that it is finished."""
        what = self._source.location.object_url(file.entry.key)
        if not self._keeps(file):
            message = (
                f"{what} came with another {file.check.algorithm} than S3 keeps of it; start again or upload it again"
            )
            raise StartError(message)
        with self._lock:
            if self._tally.stopped.is_set():  # this process may not have the folder any more
                return
            file.partial.replace(file.target)
            self._record[file.entry.name] = file.entry.etag
            write_record(self._folder, self._record)
        log.debug("fetched_file", extra={"object": what, "mb": _mb(file.entry.size), "checked": str(file.check)})

    def _keeps(self, file: _File) -> bool:
        if file.check.crc:
            crcs = [(part.crc, part.end - part.begin) for part in file.ranges]
            return combined(file.check.crc, crcs) == file.check.expected
        if file_keeps(file.check, file.partial):
            return True
        if file.check.part_bytes is None:
            return False
        # The first part's size did not tell those of the others.
        count = -(-file.entry.size // file.check.part_bytes)
        sizes = [int(self._head(file.entry, PartNumber=number)["ContentLength"]) for number in range(1, count + 1)]
        if sum(sizes) == file.entry.size:
            return file_keeps(file.check, file.partial, sizes=sizes)
        file.check = Check(None)  # nor does S3: only the size is known
        return True

    def _head(self, entry: S3Object, **more: int) -> Any:
        asked = {"Bucket": self._source.location.bucket, "Key": entry.key, "ChecksumMode": "ENABLED", **more}
        return self._attempt(entry, lambda: self._source.client.head_object(**asked))

    def _same(self, entry: S3Object, answer: Mapping[str, Any]) -> None:
        """Refuse an answer that is not of the object that was listed."""
        what = self._source.location.object_url(entry.key)
        if etag_of(answer, what) != entry.etag:
            message = f"{what} cannot be read: it changed while it was read; start again when its upload has finished"
            raise StartError(message)

    def _attempt(self, entry: S3Object, call: Callable[[], Any]) -> Any:
        return attempted(self._source, entry.key, call, stopped=self._tally.stopped)


def attempted(source: Source, key: str | None, call: Callable[[], Any], *, stopped: threading.Event) -> Any:
    """Call until it succeeds, at most as often as the settings allow, with growing pauses.

    Raises:
        StartError: it never did, or another attempt would not help.
    """
    for attempt in range(1, source.attempts + 1):
        try:
            return call()
        except StartError:
            raise
        except Exception as exc:  # botocore, urllib3 and the system have many
            if attempt == source.attempts or stopped.is_set() or not is_passing(exc):
                raise explained(
                    exc, source.location, key=key, attempts=source.attempts, anonymous=source.anonymous
                ) from exc
            log.debug("fetch_again", extra={"key": key, "attempt": attempt, "reason": type(exc).__name__})
            stopped.wait(min(0.1 * 2**attempt, _LONGEST_PAUSE_S) * random.uniform(0.5, 1))  # noqa: S311 - no secret
    raise AssertionError  # the last attempt returns or raises
