"""What the image's build would do, as far as it can be told without building."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.server import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
# Instructions of each stage; the first list stands above the first FROM.
STAGES = [
    [line for line in stage.splitlines() if line[:1].strip("#")]
    for stage in re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)
]


def arguments(lines: list[str]) -> dict[str, str | None]:
    """Names of build arguments that *lines* declare -> default, None without one."""
    found = [re.match(r"ARG (\w+)(?:=(.*))?$", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def test_a_shared_argument_has_its_default_above_the_first_stage() -> None:
    """A default inside a stage is not known in others, not even in those that are built from it."""
    above, *stages = STAGES
    declared = [arguments(lines) for lines in stages]
    names = [name for stage in declared for name in stage]
    shared = {name for name in names if names.count(name) > 1 or name in arguments(above)}
    assert "WORLD" in shared
    assert {name: arguments(above).get(name) for name in shared if not arguments(above).get(name)} == {}
    assert [name for stage in declared for name in shared & stage.keys() if stage[name] is not None] == []


def test_a_stage_declares_the_arguments_that_it_uses() -> None:
    """Where it does not, the argument is empty there and nobody says so."""
    above, *stages = STAGES
    known = {name for lines in STAGES for name in arguments(lines)}
    assert {"WORLD", "TRIM", "WEIGHTS", "BASE_IMAGE", "ADAPTER_IMAGE"} == known
    for start, *lines in stages:
        used = known & set(re.findall(r"\$\{?(\w+)", "\n".join(lines)))
        assert used == arguments(lines).keys(), start
        assert known & set(re.findall(r"\$\{?(\w+)", start)) <= arguments(above).keys()


@pytest.mark.parametrize(("value", "code"), [("true", 0), ("false", 0), ("False", 1), ("", 1), ("no", 1)])
def test_trimming_is_on_or_off(tmp_path: Path, value: str, code: int) -> None:
    """A value that means neither ends the build instead of leaving everything in."""
    found = re.search(r"^RUN (case \$TRIM in .*?esac)$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert found is not None
    command = re.sub(r"\\\n", "", found[1])
    (tmp_path / "python3").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    environment = {"TRIM": value, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("trim.py" in done.stdout) == (value == "true")


@pytest.mark.parametrize("world", ["cpu", "gpu", "test"])
def test_only_locks_for_cpus_look_at_pytorchs_cpu_index(tmp_path: Path, world: str) -> None:
    """To pip `2.13.0+cpu` satisfies `torch==2.13.0` and is newer: a GPU's image would get it."""
    calls = tmp_path / "calls"
    pip = tmp_path / "venv/bin/pip"
    pip.parent.mkdir(parents=True)
    pip.write_text(f'#!/bin/sh\nfor last; do :; done\necho "$@" $(cat "$last" 2>/dev/null) >> {calls}\n')
    pip.chmod(0o755)
    lock = ROOT / f"infra/requirements/{world}.txt"
    subprocess.run(["sh", str(ROOT / "infra/requirements/install.sh"), str(tmp_path / "venv"), str(lock)], check=True)
    told = calls.read_text().splitlines()
    assert sum("install" in call and " vllm" in call and "--hash" in call for call in told) == 1
    asked = [call for call in told if "download.pytorch.org" in call]
    if world == "gpu":
        assert asked == []
        assert any(re.search(r" torch==[\d.]+ ", call) for call in told)
    else:
        (call,) = asked
        assert re.search(r" torch==[\d.]+\+cpu", call)
