"""The bench's figures as Markdown."""

from __future__ import annotations

from tests.bench.targets import OURS, Figures, median, rounds, targets

_HEAD = ["measure", "ours ÷ vLLM's best", "÷ its default flags", "first", "aim", "best: met"]


def markdown(figures: Figures) -> str:
    """Write every table: the targets, the starts, each load for each server."""
    machine = figures["machine"]
    told = [
        f"{machine['date']}, {machine['cores']} cores ({machine['cpu']})",
        f"vLLM {machine['vllm']}, torch {machine['torch']}, float32",
        f"medians of {machine['rounds']} rounds, the servers in turn in each",
        f"wrk's own share of a core at most {_driver(figures):.0%}",
    ]
    parts = [
        "; ".join(told) + ".",
        _table(_HEAD, [row.row() for row in targets(figures)]),
    ]
    if "starts" in figures:
        rows = [f"| {name} | {_spread(values, 1)} |" for name, values in figures["starts"].items() if values]
        parts += ["Seconds from process start to the first correct embedding:", _table(["start", "s (min-max)"], rows)]
    for model, title in (
        ("minilm", "all-MiniLM-L6-v2"),
        ("tiny", "a 1-layer model, which shows the servers themselves"),
    ):
        if model in figures.get("rounds", {}):
            parts += [f"Texts a second with {title}:", _loads(figures, model)]
    if "minilm" in figures.get("rounds", {}):
        parts += ["Latency of one short text, p50 / p99 in ms:", _latencies(figures)]
    if "engine_alone" in figures:
        parts.append(
            f"The engine alone (`LLM.embed`, 32 texts at a time): {_spread(figures['engine_alone'], 0)} texts a second."
        )
    parts += [f"{name}: {reason}." for name, reason in figures.get("absent", {}).items()]
    return "\n\n".join(parts) + "\n"


def _driver(figures: Figures) -> float:
    used = [
        values["driver_cpu"]
        for model in figures.get("rounds", {}).values()
        for entry in model
        for loads in entry.values()
        for values in loads.values()
        if "driver_cpu" in values
    ]
    return max(used, default=0.0)


def _table(head: list[str], rows: list[str]) -> str:
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *rows])


def _spread(values: list[float], digits: int) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _loads(figures: Figures, model: str) -> str:
    servers = list(figures["rounds"][model][0])
    loads = [name for name, values in figures["rounds"][model][0][OURS].items() if "texts_per_s" in values]
    rows = [
        f"| {load} | "
        + " | ".join(_spread(rounds(figures, model, server, load, "texts_per_s"), 0) for server in servers)
        + " |"
        for load in loads
    ]
    costs = [median(rounds(figures, model, server, loads[-1], "cpu_us_per_text")) for server in servers]
    rows.append(f"| CPU µs a text, {loads[-1]} | " + " | ".join(f"{cost:.0f}" for cost in costs) + " |")
    memory = [median(rounds(figures, model, server, "memory", "pss_mb")) for server in servers]
    rows.append("| memory of all processes, MB | " + " | ".join(f"{mb:.0f}" for mb in memory) + " |")
    return _table(["load", *servers], rows)


def _latencies(figures: Figures) -> str:
    servers = list(figures["rounds"]["minilm"][0])
    rows = []
    for connections in (1, 8, 32, 64):
        load = f"1 text, {connections} connections"
        cells = [
            f"{median(rounds(figures, 'minilm', server, load, 'p50_ms')):.1f} / "
            f"{median(rounds(figures, 'minilm', server, load, 'p99_ms')):.1f}"
            for server in servers
        ]
        rows.append(f"| {connections} connections | " + " | ".join(cells) + " |")
    return _table(["", *servers], rows)
