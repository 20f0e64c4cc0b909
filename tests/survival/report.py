"""What was seen, as rows of one Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that the server must survive."""

    what: str
    seen: str  # with its figures
    survived: bool


def table(rows: Sequence[Row]) -> str:
    """Write *rows* in Markdown."""
    lines = ["| what happens | what was seen | survived |", "|---|---|---|"]
    return "\n".join(
        [*lines, *(f"| {row.what} | {row.seen} | {'yes' if row.survived else '**no**'} |" for row in rows)]
    )
