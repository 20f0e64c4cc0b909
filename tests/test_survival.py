from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.survival.faults import FAULTS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("test", FAULTS.values())
def test_every_fault_that_make_survive_names_is_a_test(test: str) -> None:
    """`make survive` says so too, but CI lets it run only those that `make test` does not."""
    path, _, function = test.partition("::")
    found = [node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert function in found if function else [name for name in found if name.startswith("test_")]
