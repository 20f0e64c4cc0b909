from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from handler.errors import StartError
from handler.s3_folder import check_space, locked


def test_more_than_the_disk_has_is_refused(tmp_path: Path) -> None:
    """By the disk's own figure; nothing that is needed fits always."""
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(
        StartError, match=r"is too small: [\d.]+ MB are needed, [\d.]+ MB are free; set EMBED_CACHE_DIR"
    ):
        check_space(tmp_path, 2 * free)
    check_space(tmp_path, 0)
    check_space(tmp_path, 1)


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
    before = len(list(Path("/proc/self/fd").iterdir()))
    with (
        pytest.raises(StartError, match=r"cannot be locked: No locks available; set EMBED_CACHE_DIR"),
        locked(tmp_path),
    ):
        raise AssertionError
    assert len(list(Path("/proc/self/fd").iterdir())) == before
