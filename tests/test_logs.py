from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

from handler.logs import EventTextFormatter

SCRIPT = """
import logging, threading, warnings
from logging.config import dictConfig
from handler.logs import drop_own_handlers, logging_config, take_over

dictConfig(logging_config(level="INFO", log_format="json"))
take_over()
warnings.simplefilter("always")
warnings.warn("half\\nbaked")

def fail():
    raise ValueError("hush")

for target in (fail, exit):
    thread = threading.Thread(target=target, name="a-thread")
    thread.start()
    thread.join()

library = logging.getLogger("library.part")  # as torch sets up its loggers when it is imported
library.addHandler(logging.StreamHandler())
library.propagate = False
drop_own_handlers("library")
library.warning("told once")
"""


def test_whatever_is_written_is_a_line_of_ours() -> None:
    """Warnings of Python, what ends a thread, and libraries with handlers of their own."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    warned, died, told = [json.loads(line) for line in done.stderr.splitlines()]
    assert "UserWarning: half\nbaked" in warned["event"]
    assert (died["event"], died["who"], died["level"]) == ("thread_died", "a-thread", "ERROR")
    assert died["reason"].startswith("ValueError (<string>:")
    assert "hush" not in done.stderr
    assert (told["event"], told["logger"]) == ("told once", "library.part")


def test_a_line_for_people_has_the_fields_behind_the_event() -> None:
    """Of a table each entry, without quotes and braces."""
    record = logging.makeLogRecord(
        {"levelname": "INFO", "msg": "request", "status": 200, "stages_ms": {"a": 1, "b": 2.5}}
    )
    line = EventTextFormatter(service="left out").format(record)
    assert line.partition(" ")[2] == "INFO request status=200 stages_ms=a:1,b:2.5"
