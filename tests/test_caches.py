from __future__ import annotations

from pathlib import Path

import pytest

from handler.caches import copy_baked


@pytest.fixture
def baked(tmp_path: Path) -> Path:
    """A folder as the image has it."""
    folder = tmp_path / "baked"
    (folder / "modelinfos").mkdir(parents=True)
    (folder / "modelinfos" / "one.json").write_text("one")
    return folder


def test_a_baked_cache_is_brought_to_where_it_is_looked_for(baked: Path, tmp_path: Path) -> None:
    """With its time of change, by which a second start sees that nothing was made anew."""
    copy_baked(baked, tmp_path / "root")
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


def test_a_folder_that_cannot_be_written_is_told_and_survived(
    baked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The start costs seconds more, that is all."""
    (tmp_path / "root").write_text("a file, not a folder")
    copy_baked(baked, tmp_path / "root")
    assert [record.message for record in caplog.records] == ["baked_cache_unused"]
