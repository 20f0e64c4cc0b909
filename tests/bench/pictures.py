"""The bench's figures as two SVG pictures, readable on light and dark pages."""

from __future__ import annotations

import math

from tests.bench.targets import OURS, Figures, median, rounds

_COLOURS = ("#2563eb", "#d97706", "#dc2626", "#7c3aed", "#64748b", "#0d9488", "#db2777", "#65a30d")
_TEXT = 'font-family="system-ui, sans-serif" font-size="13" fill="#808890"'
_CONNECTIONS = (1, 8, 32, 64)


def _svg(width: int, height: int, body: list[str]) -> str:
    lines = "\n".join(body)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">\n{lines}\n</svg>\n'


def _say(x: float, y: float, words: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" {_TEXT}>{words}</text>'


def latency(figures: Figures) -> str:
    """Draw p50 of one short text over the number of connections, both logarithmic."""
    left, top, width, height = 60, 20, 460, 260
    servers = list(figures["rounds"]["minilm"][0])
    lines = {
        name: [
            median(rounds(figures, "minilm", name, f"1 text, {count} connections", "p50_ms")) for count in _CONNECTIONS
        ]
        for name in servers
    }
    low = math.log10(min(min(line) for line in lines.values())) - 0.1
    high = math.log10(max(max(line) for line in lines.values())) + 0.1

    def x(count: int) -> float:
        return left + width * math.log2(count) / math.log2(_CONNECTIONS[-1])

    def y(value: float) -> float:
        return top + height * (high - math.log10(value)) / (high - low)

    body = [_say(left, 14, "one short text, p50 in ms")]
    for tick in (5, 10, 20, 50, 100, 200, 500, 1000):
        if low <= math.log10(tick) <= high:
            body.append(f'<path d="M{left} {y(tick):.1f}h{width}" stroke="#808890" stroke-opacity=".25"/>')
            body.append(_say(left - 8, y(tick) + 4, str(tick), anchor="end"))
    body += [_say(x(count), top + height + 20, str(count), anchor="middle") for count in _CONNECTIONS]
    body.append(_say(left + width / 2, top + height + 40, "connections", anchor="middle"))
    for number, (name, line) in enumerate(lines.items()):
        points = " ".join(f"{x(count):.1f},{y(value):.1f}" for count, value in zip(_CONNECTIONS, line, strict=True))
        body.append(f'<polyline points="{points}" fill="none" stroke="{_COLOURS[number]}" stroke-width="2.5"/>')
        body.append(
            f'<rect x="{left + width + 20}" y="{top + 22 * number}" width="12" height="12" fill="{_COLOURS[number]}"/>'
        )
        body.append(_say(left + width + 38, top + 11 + 22 * number, name))
    return _svg(left + width + 270, top + height + 50, body)


def start_phases(figures: Figures) -> str:
    """Draw the seconds of each phase of our start, stacked, over the same of other starts as a whole."""
    starts, phases = figures["starts"], dict(figures["phases_s"])
    total = median(starts["ours, warm"])
    phases = {name: seconds for name, seconds in phases.items() if name != "total"}
    phases["Python, gunicorn, first answer"] = max(0.0, total - sum(phases.values()))
    bars = {name: {"": median(values)} for name, values in starts.items() if values and name != "ours, warm"}
    bars = {f"{OURS}, warm": phases, **bars}
    left, row, width = 230, 30, 430
    scale = width / max(sum(bar.values()) for bar in bars.values())
    body = [_say(left, 14, "seconds from process start to the first embedding")]
    for number, (name, bar) in enumerate(bars.items()):
        x, y = float(left), 26 + row * number
        body.append(_say(left - 10, y + 15, name, anchor="end"))
        for part, (_, seconds) in enumerate(bar.items()):
            colour = _COLOURS[part % len(_COLOURS)] if len(bar) > 1 else "#64748b"
            body.append(f'<rect x="{x:.1f}" y="{y}" width="{seconds * scale:.1f}" height="20" fill="{colour}"/>')
            x += seconds * scale
        body.append(_say(x + 6, y + 15, f"{sum(bar.values()):.1f}"))
    y = 26 + row * len(bars) + 14
    for part, (name, seconds) in enumerate(phases.items()):
        body.append(
            f'<rect x="{left}" y="{y + 20 * part}" width="12" height="12" fill="{_COLOURS[part % len(_COLOURS)]}"/>'
        )
        body.append(_say(left + 18, y + 11 + 20 * part, f"{name} {seconds:.2f} s"))
    return _svg(left + width + 60, y + 20 * len(phases) + 10, body)
