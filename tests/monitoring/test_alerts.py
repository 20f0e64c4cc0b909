"""What the alert rules do with made-up series; promtool plays them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.monitoring.prometheus import tool

PLAYED = Path(__file__).with_name("alerts.test.yaml")


def test_the_rules_fire_when_they_should_and_only_then() -> None:
    """Each case of the file, among them what is ordinary and must wake nobody."""
    command = [tool("promtool"), "test", "rules", str(PLAYED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
