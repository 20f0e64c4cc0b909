"""The figures that count, each as a ratio to vLLM's own server in the same run, with what is aimed at."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

OURS = "serverless-embeddings"
COMPILED = "serverless-embeddings, compiled"
DEFAULT = "vLLM, default flags"
YARDSTICKS = (DEFAULT, "vLLM, eager", "vLLM, best flags", "vLLM, best flags, compiled")
_MODELS = {"minilm": "MiniLM", "tiny": "1-layer model"}
_UNITS = {"texts_per_s": "texts/s", "p50_ms": "p50", "pss_mb": "PSS"}
Figures = dict[str, Any]  # what side_by_side gathers


@dataclass(frozen=True, slots=True)
class Target:
    """One row: what was measured against the limits."""

    measure: str
    value: float
    first: float
    aim: float | None
    at_least: bool
    to_default: float | None = None  # the same against vLLM's default flags alone

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
        default = "" if self.to_default is None else f"{self.to_default:.2f}"
        return f"| {self.measure} | {told} | {default} | {sign} {self.first:g} | {aim} | {met} |"


def median(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def rounds(figures: Figures, model: str, server: str, load: str, figure: str) -> list[float]:
    """Collect one figure over the rounds."""
    return [entry[server][load][figure] for entry in figures["rounds"][model] if server in entry]


def _beside_vllm(
    figures: Figures, model: str, load: str, figure: str, limits: tuple[float, float], *, server: str = OURS
) -> Target:
    """Compare *server* round by round with whichever of vLLM's settings is best in it, and with its default ones.

    A first *limit* above 1 says that more is better.
    """
    highest = limits[0] > 1
    best, default = [], []
    for entry in figures["rounds"][model]:
        ours, theirs = entry[server][load][figure], [entry[name][load][figure] for name in YARDSTICKS if name in entry]
        best.append(ours / (max(theirs) if highest else min(theirs)))
        default.append(ours / entry[DEFAULT][load][figure])
    told = f"{_MODELS[model]}, {load}, {_UNITS[figure]}{', compiled' if server == COMPILED else ''}"
    return Target(told, median(best), *limits, at_least=highest, to_default=median(default))


def targets(figures: Figures) -> list[Target]:
    """Work out every row for which *figures* has what it needs."""
    rows: list[Target] = []
    if "starts" in figures:
        rows += _starts(figures["starts"])
    if "minilm" in figures.get("rounds", {}):
        rows += _minilm(figures)
    if "tiny" in figures.get("rounds", {}):
        rows += [
            _beside_vllm(figures, "tiny", load, "texts_per_s", limits)
            for load, limits in (("32 texts", (1.5, 2.5)), ("1 text, 32 connections", (1.3, 2.0)))
        ]
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
        _beside_vllm(figures, "minilm", load, figure, limits, server=server)
        for load, figure, limits in (
            ("32 texts", "texts_per_s", (1.7, 2.0)),
            ("1 text, 32 connections", "texts_per_s", (1.3, 1.6)),
            ("1 text, 1 connections", "p50_ms", (0.65, 0.5)),
            ("memory", "pss_mb", (0.6, 0.45)),
        )
        for server in (OURS, COMPILED)
        if server in figures["rounds"]["minilm"][0]
    ]
    if "engine_alone" in figures:
        own = median(rounds(figures, "minilm", OURS, "32 texts", "texts_per_s"))
        alone = median(figures["engine_alone"])
        rows.append(Target("MiniLM, 32 texts, to the engine alone", own / alone, 0.85, 0.95, at_least=True))
    ready = median(rounds(figures, "minilm", OURS, "ready", "p99_ms"))
    rows.append(Target("p99 of /ready under full load, ms", ready, 50, None, at_least=False))
    return rows
