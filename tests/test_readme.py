from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from handler.settings import Settings

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MODULES = ROOT / "handler/README.md"
PAGES = [README, *(page for folder in ("handler", "infra", "tests") for page in sorted((ROOT / folder).rglob("*.md")))]


def rows(page: Path, first_column: str) -> list[list[str]]:
    """Return the rows of the page's tables whose header begins with *first_column*, as cells."""
    blocks = [block for block in page.read_text().split("\n\n") if block.startswith(f"| {first_column} |")]
    lines = [line for block in blocks for line in block.splitlines()[2:]]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def anchors(page: Path) -> set[str]:
    """Return what a link can name of a page: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shown(default: object) -> str:
    """Write a default as the README does."""
    if default is None or default in ("", (), {}):
        return "\N{EN DASH}"
    text = str(default).lower() if isinstance(default, bool) else str(default)
    return f"`{text}`".replace("\n", "\\n")


def test_the_settings_table_is_the_settings_class() -> None:
    """Every variable, its default, and none that does not exist."""
    settings = {Settings.variable(name): field for name, field in Settings.model_fields.items()}
    table = {name.strip("`"): cells for name, *cells in rows(README, "variable")}
    assert list(table) == list(settings)
    for name, field in settings.items():
        assert table[name][0] == shown(field.get_default(call_default_factory=True)), name
        assert table[name][1], name


def test_every_module_has_its_line() -> None:
    """Each in one of the tables of the page about them, and what is not there in none."""
    modules = {path.stem for path in (ROOT / "handler").glob("*.py")} - {"__init__"}
    assert sorted(f"`{module}`" for module in modules) == sorted(name for name, _ in rows(MODULES, "module"))


def test_no_row_is_there_twice() -> None:
    """A merge can leave an old table, or an old row, beside the new one."""
    told: Counter[tuple[str, str]] = Counter()
    for column in ("route", "variable", "config.toml", "what happens"):
        told.update((column, row[0]) for page in PAGES for row in rows(page, column))
    assert not [row for row, count in told.items() if count > 1]


def test_every_module_says_what_it_is_for() -> None:
    """A docstring opens each file."""
    for path in (ROOT / "handler").glob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_every_make_target_that_is_named_exists() -> None:
    """Nothing promised that is not there."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"(?:^|`|\S=\S+ )make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_or_heading_leads_there(page: Path) -> None:
    """A page that is moved, or a heading that is written anew, leaves no link behind."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in link:
            path, _, heading = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not heading or heading in anchors(target), link
