"""Short load tests of a real server by the real locust; `make load-check` runs it, which makes locust's environment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.load.record import read
from tests.server import ROOT, Server, free_port

KEY = "key-of-the-load-check"
SLOTS = 8
SHORT = {"STEP_S": "3", "HOLD_S": "6", "P99_MS": "60000"}
# Seconds are few here, and other work on the machine is in them: how much comes back is not judged strictly.
LENIENT = {"MIN_GOODPUT": "0.2", "MIN_OVERLOAD": "1.2"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Serve the packaged model in a few slots."""
    with Server(EMBED_API_KEYS=KEY, EMBED_MAX_CONCURRENT_REQUESTS=str(SLOTS)) as running:
        yield running.wait_ready()


def load(url: str, out: Path, *, key: str = KEY, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run what `make load` runs."""
    environment = {**os.environ, **SHORT, **LENIENT, **variables, "URL": url, "KEY": key, "OUT": str(out)}
    command = [os.environ["LOAD_PYTHON"], "-m", "tests.load"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)


def test_a_ramp_finds_the_peak_and_overloads_it(server: Server, tmp_path: Path) -> None:
    """Nothing is lost, what is refused says when to come again, and bad clients get what they deserve."""
    done = load(server.url, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("- Highest rate with p99 of one text ≤ 60000 ms: ", "- Peak: ", "- Refused: ", "- Bad clients: "):
        assert said in done.stdout
    assert done.stdout.rstrip().endswith("nothing was wrong**")
    seconds = read(tmp_path / "seconds.jsonl")
    assert sum(second.refused for second in seconds if second.phase == "overload") > 0
    assert sum(second.bad for second in seconds) == sum(second.bad_as_expected for second in seconds) > 0
    assert server.status("/ready") == 200


def test_the_folder_holds_the_reports_and_not_the_key(server: Server, tmp_path: Path) -> None:
    """A soak of some seconds leaves locust's HTML and CSV and the summary."""
    done = load(server.url, tmp_path, SHAPE="soak", SOAK_S="12", USERS="12", CLIENTS="Search Bad")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "summary.md").read_text().strip() == done.stdout[done.stdout.index("## Load") :].strip()
    assert {"report.html", "stats_stats.csv", "stats_failures.csv"} <= {path.name for path in tmp_path.iterdir()}
    assert "wrong key" in (tmp_path / "report.html").read_text()
    assert [path.name for path in tmp_path.iterdir() if KEY in path.read_text()] == []
    assert KEY not in done.stdout + done.stderr + server.log()


def test_what_should_not_happen_fails_the_run(tmp_path: Path) -> None:
    """Where batches are larger than the server lets them be nothing is answered, and the summary says why."""
    limits = {"STEP_S": "1", "HOLD_S": "2", "MAX_USERS": "10"}
    with Server(EMBED_API_KEYS=KEY, EMBED_MAX_INPUTS="16") as strict:
        done = load(strict.wait_ready().url, tmp_path, CLIENTS="Bulk", **limits)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "- **400: " in done.stdout
    assert "- **nothing was answered**" in done.stdout


def test_a_wrong_key_is_said_in_one_line(server: Server, tmp_path: Path) -> None:
    """Before locust starts."""
    done = load(server.url, tmp_path, key="another")
    assert done.returncode == 2
    assert "401 " in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_server_is_said_in_one_line(tmp_path: Path) -> None:
    """Before locust starts."""
    done = load(f"http://127.0.0.1:{free_port()}", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("cannot load: ")
    assert done.stderr.count("\n") == 1
