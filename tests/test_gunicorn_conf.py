from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import free_port


@pytest.mark.parametrize(("drain_s", "graceful_s"), [("0.9", "3"), ("8", "10"), ("8.5", "11")])
def test_gunicorn_waits_longer_than_the_drain(drain_s: str, graceful_s: str) -> None:
    """By two seconds at least, fractions included: the worker stops by itself before."""
    script = "from handler import gunicorn_conf; print(gunicorn_conf.graceful_timeout)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"EMBED_DRAIN_TIMEOUT_S": drain_s, "PORT": str(free_port())},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == graceful_s
