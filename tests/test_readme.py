from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

from handler.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def table(first_column: str) -> dict[str, list[str]]:
    """Return the rows of the table whose header begins with *first_column*, by their first cell."""
    lines = README[README.index(f"\n| {first_column} |") + 1 :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


def shown(default: object) -> str:
    """Write a default as the README does."""
    if default is None or default in ("", (), {}):
        return "\N{EN DASH}"
    text = str(default).lower() if isinstance(default, bool) else str(default)
    return f"`{text}`".replace("\n", "\\n")


def test_the_settings_table_is_the_settings_class() -> None:
    """Every variable, its default, and none that does not exist."""
    settings = {Settings.variable(name): field for name, field in Settings.model_fields.items()}
    rows = table("variable")
    assert list(rows) == sorted(rows, key=list(settings).index)
    assert set(rows) == set(settings)
    for name, field in settings.items():
        assert rows[name][0] == shown(field.get_default(call_default_factory=True)), name
        assert rows[name][1], name


def test_every_module_has_its_line() -> None:
    """And each line is the module's own first sentence's business."""
    modules = {path.stem for path in (ROOT / "handler").glob("*.py")} - {"__init__"}
    assert set(table("module of `handler/`")) == modules


def test_no_row_is_there_twice() -> None:
    """A merge can leave an old table, or an old row, beside the new one."""
    rows: Counter[tuple[str, str]] = Counter()
    for block in README.split("\n\n"):
        head, *lines = block.splitlines()
        if head.startswith(("| route ", "| module ", "| variable ", "| config.toml ", "| what happens ")):
            rows.update((head.split("|")[1], line.split("|")[1]) for line in lines[1:])
    assert not [row for row, count in rows.items() if count > 1]


def test_every_module_says_what_it_is_for() -> None:
    """A docstring opens each file."""
    for path in (ROOT / "handler").glob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_every_make_target_that_is_named_exists() -> None:
    """Nothing promised that is not there."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets
