from pathlib import Path

import pytest

from handler.errors import StartError
from handler.module_list import read_modules


@pytest.mark.parametrize("content", ["{", "[1]", '[{"name": "x"}]', "[" * 100_000, "1"])
def test_a_broken_list_is_refused(tmp_path: Path, content: str) -> None:
    """By name, whether the folder was mounted or comes from a bucket."""
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(StartError, match=r"modules\.json is not "):
        read_modules(tmp_path)


@pytest.mark.parametrize("content", [None, "{}", "[]"])
def test_without_modules_there_are_none(tmp_path: Path, content: str | None) -> None:
    """Many models have no list."""
    if content is not None:
        (tmp_path / "modules.json").write_text(content)
    assert read_modules(tmp_path) == []
