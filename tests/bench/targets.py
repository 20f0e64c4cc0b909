"""The figures that count, each as a ratio to vLLM's own server in the same run, with what is aimed at."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

OURS = "serverless-embeddings"
YARDSTICKS = ("vLLM, default flags", "vLLM, eager", "vLLM, best flags")
Figures = dict[str, Any]  # what side_by_side gathers


@dataclass(frozen=True, slots=True)
class Target:
    """One row: what was measured against the limits."""

    measure: str
    value: float
    first: float
    aim: float | None
    at_least: bool

    def meets(self, limit: float | None) -> str:
        """Say whether *limit* is met."""
        if limit is None:
            return ""
        return "yes" if (self.value >= limit if self.at_least else self.value <= limit) else "no"

    def row(self) -> str:
        """Write it as a row of the table."""
        sign = "≥" if self.at_least else "≤"
        aim = "" if self.aim is None else f"{sign} {self.aim:g}"
        told = f"{self.value:.2f}" if self.value < 10 else f"{self.value:.0f}"
        met = self.meets(self.first) + (f" / {self.meets(self.aim)}" if aim else "")
        return f"| {self.measure} | {told} | {sign} {self.first:g} | {aim} | {met} |"


def median(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def rounds(figures: Figures, model: str, server: str, load: str, figure: str) -> list[float]:
    """Collect one figure over the rounds."""
    return [entry[server][load][figure] for entry in figures["rounds"][model] if server in entry]


def paired(figures: Figures, model: str, load: str, figure: str, *, highest: bool) -> float:
    """Return the median over rounds of ours ÷ vLLM's, against whichever of its settings is best at it."""
    best = []
    for entry in figures["rounds"][model]:
        theirs = [entry[name][load][figure] for name in YARDSTICKS if name in entry]
        best.append(entry[OURS][load][figure] / (max(theirs) if highest else min(theirs)))
    return median(best)


def targets(figures: Figures) -> list[Target]:
    """Work out every row for which *figures* has what it needs."""
    rows: list[Target] = []
    if "starts" in figures:
        rows += _starts(figures["starts"])
    if "minilm" in figures.get("rounds", {}):
        rows += _minilm(figures)
    if "tiny" in figures.get("rounds", {}):
        for load, first, aim in (("32 texts", 1.5, 2.5), ("1 text, 32 connections", 1.3, 2.0)):
            ratio = paired(figures, "tiny", load, "texts_per_s", highest=True)
            rows.append(Target(f"1-layer model, {load}, texts/s", ratio, first, aim, at_least=True))
    if "float_json_s" in figures:
        seconds = figures["float_json_s"]
        rows.append(
            Target("float JSON of 256 x 1024, to orjson", seconds["ours"] / seconds["orjson"], 1, 0.8, at_least=False)
        )
        rows.append(
            Target("float JSON of 256 x 1024, to json", seconds["ours"] / seconds["json"], 0.2, None, at_least=False)
        )
    return rows


def _starts(starts: Figures) -> list[Target]:
    ours, floor = median(starts["ours, warm"]), median(starts["imports and weights alone"])
    shipped = median(starts["ours, as shipped"]) / median(starts["vLLM, default flags, empty cache"])
    both_warm = ours / median(starts["vLLM, eager, warm"])
    return [
        Target("cold start, as shipped to a fresh vLLM", shipped, 0.25, 0.167, at_least=False),
        Target("cold start, both warm and eager", both_warm, 0.4, 0.333, at_least=False),
        Target("cold start to imports and weights alone", ours / floor, 1.35, 1.15, at_least=False),
    ]


def _minilm(figures: Figures) -> list[Target]:
    rows = [
        Target(f"MiniLM, {load}, {told}", paired(figures, "minilm", load, figure, highest=up), first, aim, at_least=up)
        for load, told, figure, first, aim, up in (
            ("32 texts", "texts/s", "texts_per_s", 1.7, 2.0, True),
            ("1 text, 32 connections", "texts/s", "texts_per_s", 1.3, 1.6, True),
            ("1 text, 1 connections", "p50", "p50_ms", 0.65, 0.5, False),
            ("memory", "PSS", "pss_mb", 0.6, 0.45, False),
        )
    ]
    if "engine_alone" in figures:
        own = median(rounds(figures, "minilm", OURS, "32 texts", "texts_per_s"))
        alone = median(figures["engine_alone"])
        rows.append(Target("MiniLM, 32 texts, to the engine alone", own / alone, 0.85, 0.95, at_least=True))
    ready = median(rounds(figures, "minilm", OURS, "ready", "p99_ms"))
    rows.append(Target("p99 of /ready under full load, ms", ready, 50, None, at_least=False))
    return rows
