"""The faults: every one is a test that stands where tests stand; here they are run and their figures gathered."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

from tests.server import ROOT
from tests.survival.report import Row

# what happens -> the test that does it; a test tells its figures by `record_property("figure", ...)`
_LIFE = "tests/integration/test_life.py::test_"
_FAULTS = "tests/integration/test_faults.py::test_"
_ROWS = "tests/integration/test_faulty_engine.py::test_a_row_that_is_not_a_number"
FAULTS = {
    "kill -9 of the worker, ready or loading": _LIFE + "a_killed_worker_ends_the_container",
    "the engine's step raises": _LIFE + "an_engine_that_dies_answers_everybody_and_ends_the_process",
    "weights that are NaN, cut off, missing, of another shape": _LIFE + "a_model_that_cannot_be_served_ends_the_start",
    "NaN in one text's vector while others share its batch": _ROWS,
    "clients that disconnect": _FAULTS + "clients_that_disconnect",
    "10 000 malformed bodies": _FAULTS + "ten_thousand_malformed_bodies",
    "hostile bodies": "tests/integration/test_hostile_bodies.py",
    "hostile connections": "tests/integration/test_hostile_connections.py",
    "the clock jumps": "tests/survival/test_clock.py",
}
CHOICES = {
    "all": FAULTS,
    "untested": {what: test for what, test in FAULTS.items() if test.startswith("tests/survival/")},
    "none": {},
}


def faults(chosen: Mapping[str, str]) -> list[Row]:
    """Run those *chosen*, one row for each that has figures and one for each group of those that have none."""
    if not chosen:
        return []
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *chosen.values()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.stderr.write(done.stdout[-20_000:])
        tree = ET.parse(report)  # noqa: S314 - pytest has just written it
        cases = [_Case(element) for element in tree.iter("testcase")]
    return [row for what, test in chosen.items() for row in _rows(what, [case for case in cases if case.is_of(test)])]


class _Case:
    """What pytest says of one test."""

    def __init__(self, element: ET.Element) -> None:
        properties = {entry.get("name"): entry.get("value", "") for entry in element.iter("property")}
        self.figure = properties.get("figure")
        self.what = properties.get("what")
        self.passed = not {child.tag for child in element} & {"failure", "error", "skipped"}
        self.seconds = float(element.get("time", "0"))
        self._module = element.get("classname", "").replace(".", "/")
        self._name = element.get("name", "")

    def is_of(self, test: str) -> bool:
        """Whether it belongs to *test*, a file or a function in one."""
        path, _, function = test.partition("::")
        return self._module == path.removesuffix(".py") and function in ("", self._name.partition("[")[0])


def _rows(what: str, cases: list[_Case]) -> list[Row]:
    if not cases:
        return [Row(what, "it was not run", survived=False)]
    plain = [case for case in cases if case.figure is None]
    rows = [Row(case.what or what, str(case.figure), case.passed) for case in cases if case.figure is not None]
    if plain:
        passed, seconds = sum(case.passed for case in plain), sum(case.seconds for case in plain)
        seen = f"{passed} of {len(plain)} tests passed in {seconds:.0f} s"
        rows.insert(0, Row(what, seen, all(case.passed for case in plain)))
    return rows
