from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from handler.caches import copy_baked, look_over, write_problem


@pytest.fixture
def baked(tmp_path: Path) -> Path:
    """A folder as the image has it."""
    folder = tmp_path / "baked"
    (folder / "modelinfos").mkdir(parents=True)
    (folder / "modelinfos" / "one.json").write_text("one")
    return folder


def test_a_baked_cache_is_brought_to_where_it_is_looked_for(baked: Path, tmp_path: Path) -> None:
    """With its time of change, by which a second start sees that nothing was made anew."""
    assert copy_baked(baked, tmp_path / "root")
    copied = tmp_path / "root" / "modelinfos" / "one.json"
    assert copied.read_text() == "one"
    assert copied.stat().st_mtime == (baked / "modelinfos" / "one.json").stat().st_mtime
    assert [path.name for path in copied.parent.iterdir()] == ["one.json"]


def test_a_stale_file_is_replaced_and_foreign_ones_stay(baked: Path, tmp_path: Path) -> None:
    """A cache on mounted storage may come from another release."""
    target = tmp_path / "root" / "modelinfos"
    target.mkdir(parents=True)
    (target / "one.json").write_text("older")
    (target / "other.json").write_text("other")
    copy_baked(baked, tmp_path / "root")
    assert (target / "one.json").read_text() == "one"
    assert (target / "other.json").read_text() == "other"


def test_a_baked_cache_that_is_not_there_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The start costs seconds more, and nobody would know why."""
    assert copy_baked(tmp_path / "none", tmp_path / "root")
    assert [record.message for record in caplog.records] == ["baked_cache_missing"]


def test_a_folder_that_cannot_be_written_is_told_and_survived(
    baked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The start costs seconds more, that is all."""
    (tmp_path / "root").write_text("a file, not a folder")
    assert not copy_baked(baked, tmp_path / "root")
    assert [record.message for record in caplog.records] == ["baked_cache_in_place"]


def told(root: Path, caplog: pytest.LogCaptureFixture, *, known: Path | None = None) -> list[str]:
    """Look *root* over; return the events of the log."""
    caplog.clear()
    caplog.set_level("INFO", "handler")
    look_over(root, version="0.32.0", known=known)
    return [record.message for record in caplog.records]


def test_a_fresh_cache_needs_no_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither when it is made nor when it is found again."""
    assert told(tmp_path / "new", caplog) == []
    assert told(tmp_path / "new", caplog) == []


def test_what_is_broken_is_removed_and_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rubbish, empty files, other JSON, and what a dead process has left; what is whole or being written stays."""
    folder = tmp_path / "modelinfos"
    folder.mkdir()
    whole = {"whole.json": {}, "of-another-vllm.json": {"nothing": "vLLM knows"}}
    for name, modelinfo in whole.items():
        (folder / name).write_text(json.dumps({"hash": "x", "modelinfo": modelinfo}))
    half = b'{"hash": "x", "modelinfo": {"arch'
    rubbish = (b"\xff\x00", b"\x00\xff rubbish", b"rubbish \xff")
    for number, content in enumerate((b"", b"{", b"[]", b"[" * 100_000, *rubbish, b'{"hash": "x"}', half)):
        (folder / f"broken-{number}.json").write_bytes(content)
    for name, age_s in (("tmpnew", 1), ("tmpold", 7200)):
        (folder / name).write_text("half")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    assert told(tmp_path, caplog) == ["cache_mended"]
    assert vars(caplog.records[0])["removed"] == 10
    assert {path.name for path in folder.iterdir()} == {*whole, "tmpnew"}
    assert told(tmp_path, caplog) == []


def test_files_that_were_just_copied_are_not_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A look at each costs time on a network mount."""
    for folder in ("known", "root"):
        (tmp_path / folder / "modelinfos").mkdir(parents=True)
        (tmp_path / folder / "modelinfos" / "one.json").write_text("no JSON")
    assert told(tmp_path / "root", caplog, known=tmp_path / "known") == []


@pytest.mark.parametrize(("stamp", "was"), [(b"0.31.0", "0.31.0"), (b"\xff\n" * 100, "unreadable")])
def test_another_version_s_cache_is_told(
    stamp: bytes, was: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once; vLLM knows its own files by their hash."""
    (tmp_path / "vllm-version").write_bytes(stamp)
    assert told(tmp_path, caplog) == ["cache_of_another_version"]
    assert (vars(caplog.records[0])["was"], vars(caplog.records[0])["is"]) == (was, "0.32.0")
    assert told(tmp_path, caplog) == []


def test_a_cache_that_cannot_be_looked_at_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is no reason not to start."""
    (tmp_path / "file").write_text("a file, not a folder")
    assert told(tmp_path / "file", caplog) == ["cache_not_checked"]


def test_whether_a_folder_can_be_written(tmp_path: Path) -> None:
    """It is made where it can be, and nothing is left in it."""
    assert write_problem(tmp_path / "new" / "deeper") is None
    assert list((tmp_path / "new" / "deeper").iterdir()) == []
    (tmp_path / "file").write_text("a file, not a folder")
    assert write_problem(tmp_path / "file") == "File exists"
    assert write_problem(tmp_path / "file" / "deeper") == "Not a directory"
