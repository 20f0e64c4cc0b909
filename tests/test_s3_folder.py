from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from handler.errors import StartError
from handler.s3 import S3Object
from handler.s3_folder import Turn, check_space, clear, is_finished, read_record, write_record


def test_more_than_the_disk_has_is_refused(tmp_path: Path) -> None:
    """By the disk's own figure; nothing that is needed fits always."""
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(
        StartError, match=r"is too small: [\d.]+ MB are needed, [\d.]+ MB are free; set EMBED_CACHE_DIR"
    ):
        check_space(tmp_path, 2 * free)
    check_space(tmp_path, 0)
    check_space(tmp_path, 1)


def test_a_record_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    """Its files are fetched again then."""
    write_record(tmp_path, {"config.json": "etag"})
    assert read_record(tmp_path) == {"config.json": "etag"}
    (record,) = tmp_path.iterdir()
    for content in ("", "[]", "[" * 100_000):
        record.write_text(content)
        assert read_record(tmp_path) == {}


def test_what_is_finished_has_the_etag_and_the_size_that_are_listed(tmp_path: Path) -> None:
    """A file that somebody has cut off or removed is fetched again."""
    (tmp_path / "config.json").write_text("{}")
    record = {"config.json": "etag", "vocab.txt": "etag"}

    def finished(name: str, size: int, etag: str) -> bool:
        return is_finished(S3Object(f"x/{name}", name, size, etag), tmp_path, record)

    assert finished("config.json", 2, "etag")
    assert not finished("config.json", 3, "etag")
    assert not finished("config.json", 2, "other")
    assert not finished("vocab.txt", 2, "etag")


def waiting(action: Callable[[], object]) -> threading.Thread:
    """Start *action* and see it wait."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    return thread


def ends(thread: threading.Thread) -> None:
    """It has got what it waited for."""
    thread.join(10)
    assert not thread.is_alive()


def opened(folder: Path) -> set[str]:
    """Files in *folder* that this process has open; other tests' connections come and go meanwhile."""
    links = (os.path.realpath(link) for link in Path("/proc/self/fd").iterdir())
    return {link for link in links if link.startswith(f"{folder}/")}


def test_a_folder_is_changed_by_one_process_that_has_waited_for_those_who_load(tmp_path: Path) -> None:
    """Those who change nothing load at the same time; a turn lasts from its beginning to its end."""
    first = Turn(tmp_path)
    made: list[Turn] = []
    second = waiting(lambda: made.append(Turn(tmp_path)))
    first.wait_to_change()
    first.end()
    ends(second)
    assert made[0].waited
    made[0].end()
    made[0].release()
    third = Turn(tmp_path)
    assert not third.waited
    assert opened(tmp_path)
    changing = waiting(third.wait_to_change)
    fourth = waiting(lambda: Turn(tmp_path).release())
    first.release()
    ends(changing)
    third.release()
    ends(fourth)
    assert not opened(tmp_path)


def test_a_hold_ends_although_a_forked_process_lives_on(tmp_path: Path) -> None:
    """It has the files open too; the engine's helpers may be forked."""
    turn = Turn(tmp_path)
    turn.end()
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    turn.release()
    other = Turn(tmp_path)
    other.wait_to_change()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not other.waited
    other.release()


def test_a_complete_folder_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its disk may be full, which is told where something is to be written."""

    def full(_: Path, __: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "config.json").write_text("{}")
    turn = Turn(tmp_path)
    monkeypatch.setattr(Path, "write_text", full)
    clear(turn, [S3Object("x/config.json", "config.json", 2, '"etag"')])
    with pytest.raises(StartError, match=r"the disk of \S+ is full"):
        clear(turn, [])
    turn.release()


@pytest.mark.parametrize("blocking", [False, True])
def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, blocking: bool
) -> None:
    """At once, or when somebody else's lock was waited for."""

    def refuse(_: int, how: int) -> None:
        if blocking and how & fcntl.LOCK_NB:
            raise BlockingIOError
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StartError, match=r"cannot be locked: No locks available; set EMBED_CACHE_DIR"):
        Turn(tmp_path)
    assert not opened(tmp_path)
