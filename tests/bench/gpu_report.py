"""The figures in files, one a measurement, and the Markdown made of them."""

from __future__ import annotations

import base64
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.gpu_load import Load
from tests.bench.gpu_plan import LOADS, Variant, dtype, variants
from tests.bench.gpu_shapes import SHAPES, Shape

Figures = dict[str, Any]
_STARTS = ("compiled-empty", "compiled", "eager", "vllm-empty", "vllm", "vllm-best")
_PHASES = ("weights", "imports", "tokenizer", "engine", "warm_up", "total")
_AIM_TOKENS_PER_S, _AIM_RATIO, _AIM_START_S = 1e6, 3.0, 12.0
_NONE = "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Results:
    """A folder of JSON files, and what machine writes them now."""

    folder: Path
    machine: dict[str, str]

    def _file(self, shape: Shape, variant: str, item: str) -> Path:
        return self.folder / shape.name / f"{variant}.{item}.json"

    def load(self, shape: Shape, variant: str, item: str) -> Figures | None:
        """Return the figures of one measurement, None where there are none."""
        file = self._file(shape, variant, item)
        return json.loads(file.read_text()) if file.exists() else None

    def save(self, shape: Shape, variant: str, item: str, figures: Figures) -> None:
        """Keep them; the file is whole or not there."""
        file = self._file(shape, variant, item)
        file.parent.mkdir(parents=True, exist_ok=True)
        half = file.with_suffix(".half")
        half.write_text(json.dumps({**figures, "machine": self.machine}, indent=1))
        half.replace(file)

    def forget(self, shape: Shape, variant: Variant) -> None:
        """Remove what is known of *variant*."""
        for item in variant.items:
            self._file(shape, variant.name, item).unlink(missing_ok=True)

    def missing(self, shape: Shape, variant: Variant) -> list[str]:
        """Name what is still to be measured; nothing of what does not start."""
        if "failed" in (self.load(shape, variant.name, "start") or {}):
            return []
        return [item for item in variant.items if not self._file(shape, variant.name, item).exists()]


def table(results: Results, compared: tuple[Load, ...], *, gpu: bool) -> str:
    """Return the tables of all shapes that have figures, and what became of the aims."""
    parts = [_shape(results, shape, compared, gpu=gpu) for shape in SHAPES.values() if _machines(results, shape)]
    return "\n\n".join([*parts, _aims(results)])


def _machines(results: Results, shape: Shape) -> list[Figures]:
    found = [json.loads(file.read_text())["machine"] for file in sorted((results.folder / shape.name).glob("*.json"))]
    return [machine for index, machine in enumerate(found) if machine not in found[:index]]


def _shape(results: Results, shape: Shape, compared: tuple[Load, ...], *, gpu: bool) -> str:
    machines = [", ".join(f"{name} {value}" for name, value in each.items()) for each in _machines(results, shape)]
    about = {variant.name: variant.about for variant in variants(shape, gpu=gpu)}
    heading = f"### {shape.name}, random weights, {dtype(shape, gpu=gpu)}\n\n{'; and '.join(machines)}"
    varied = [name for name in about if name not in ("compiled-empty", "vllm-empty", "vllm", "alone")]
    return "\n\n".join(
        [
            heading,
            _rows(
                ["start", "first embedding, s", *(f"{phase}, s" for phase in _PHASES), "cosine to `compiled`"],
                [_start_row(results, shape, name, about[name]) for name in _STARTS],
            ),
            _about_cosines(results, shape),
            _rows(
                [
                    *("tokens a text", "texts a request", "connections", "this server, texts/s", "tokens/s"),
                    *(
                        "vLLM's, texts/s",
                        "÷ vLLM's",
                        "÷ its best flags",
                        "÷ engine alone",
                        "p50, p99, ms",
                        "vLLM's p50, p99",
                        "GPU, %",
                    ),
                    *(
                        "vLLM's GPU, %",
                        "GIL",
                        "vLLM's GIL",
                        "server cores",
                        "vLLM's cores",
                        "driver cores, most of one",
                    ),
                ],
                [_load_row(results, shape, load) for load in LOADS],
            ),
            _rows(
                [
                    "setting",
                    "start, s",
                    *(f"{load.texts} of {load.tokens} tokens, texts/s" for load in compared),
                    "GPU, %",
                    "cosine",
                ],
                [_variation_row(results, shape, name, about[name], compared) for name in varied],
            ),
            _alone_line(results, shape),
        ]
    )


def _rows(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def _format(value: float | None, digits: int = 1) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _start_row(results: Results, shape: Shape, name: str, about: str) -> list[str]:
    start = results.load(shape, name, "start") or {}
    if "failed" in start:
        return [about, "failed", *[_NONE] * (len(_PHASES) + 1)]
    phases = start.get("phases_s") or {}
    taken = [_format(start.get("first_embedding_s")), *(_format(phases.get(phase), 2) for phase in _PHASES)]
    return [about, *taken, _agreement(results, shape, name)]


def _load_row(results: Results, shape: Shape, load: Load) -> list[str]:
    ours, theirs, best = (results.load(shape, name, load.key) or {} for name in ("compiled", "vllm", "vllm-best"))
    alone = results.load(shape, "alone", Load(load.tokens, 0, 0).key) or {}
    both = (ours, theirs)
    return [
        *(str(load.tokens), str(load.texts), str(load.connections)),
        *(_rate(ours), _format(ours.get("tokens_per_s"), 0), _rate(theirs)),
        *(_format(_ratio(ours, each), 2) for each in (theirs, best, alone)),
        *(f"{_format(each.get('p50_ms'))}, {_format(each.get('p99_ms'))}" for each in both),
        *(_share(each, "gpu_percent", "none") for each in both),
        *(_share(each, "gil", "not measured") for each in both),
        *(_format(each.get("server_cores"), 2) for each in both),
        f"{_format(ours.get('driver_cores'), 2)}, {_format(ours.get('driver_busiest'), 2)}",
    ]


def _variation_row(results: Results, shape: Shape, name: str, about: str, compared: tuple[Load, ...]) -> list[str]:
    start = results.load(shape, name, "start") or {}
    loads = [results.load(shape, name, load.key) or {} for load in compared]
    if name == "slots-256":
        return [
            f"{about}: {_many(results, shape)}",
            _format(start.get("first_embedding_s")),
            *[_NONE] * (len(loads) + 2),
        ]
    if "failed" in start:
        return [about, "failed", *[_NONE] * (len(loads) + 2)]
    percents = ", ".join(_share(load, "gpu_percent", "none") for load in loads)
    rates = [_rate(load) for load in loads]
    return [
        about,
        _format(start.get("first_embedding_s")),
        *rates,
        percents,
        _agreement(results, shape, name),
    ]


def _many(results: Results, shape: Shape) -> str:
    """Say what more slots than the default are worth for single texts."""
    more = next((v for v in variants(shape, gpu=True) if v.name == "slots-256"), None)
    found = results.load(shape, "slots-256", more.loads[0].key) if more else None
    return "not run" if found is None else f"{_rate(found)} texts/s, one text a request"


def _alone_line(results: Results, shape: Shape) -> str:
    found = {tokens: results.load(shape, "alone", Load(tokens, 0, 0).key) for tokens in (50, 512)}
    told = [f"{_rate(each)} texts/s of {tokens} tokens" for tokens, each in found.items() if each]
    return f"The engine alone: {', '.join(told) or 'not run'}."


def _rate(figures: Figures) -> str:
    if figures.get("errors"):
        return f"{figures['errors']} errors"
    return _format(figures.get("texts_per_s"), 0)


def _share(figures: Figures, name: str, absent: str) -> str:
    if not figures:
        return _NONE
    value = figures.get(name)
    return absent if value is None else f"{value:.2f}" if name == "gil" else f"{value:.0f}"


def _ratio(ours: Figures, theirs: Figures) -> float | None:
    if not ours or not theirs or ours.get("errors") or theirs.get("errors"):
        return None
    return float(ours["texts_per_s"] / theirs["texts_per_s"])


def _vectors(results: Results, shape: Shape, name: str) -> list[list[float]]:
    """Return the vectors of the texts that every variant has embedded."""
    found = (results.load(shape, name, "start") or {}).get("vectors", [])
    if found and isinstance(found[0], str):
        return [list(struct.unpack(f"<{len(raw) // 4}f", raw)) for raw in map(base64.b64decode, found)]
    return list(found)


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)


def _agreement(results: Results, shape: Shape, name: str) -> str:
    """Tell the lowest cosines of vectors of *name* and of `compiled`, whole and less the mean of the latter."""
    return _cosines(_vectors(results, shape, "compiled"), _vectors(results, shape, name))


def _about_cosines(results: Results, shape: Shape) -> str:
    """Tell what they are, and those of different texts of `compiled`, without which agreement means nothing."""
    vectors = _vectors(results, shape, "compiled")
    return (
        "Random weights make all vectors alike, so the second cosine is that of the vectors less the mean of "
        "`compiled`'s; where kernels differ, 16 bits round by as much as texts differ. Two different texts have "
        f"{_cosines(vectors, vectors[1:] + vectors[:1])}."
    )


def _cosines(yardstick: list[list[float]], vectors: list[list[float]]) -> str:
    if not yardstick or not vectors:
        return _NONE
    whole = min(map(_cosine, yardstick, vectors))
    moved = min(map(_cosine, _less_mean(yardstick, yardstick), _less_mean(vectors, yardstick)))
    return f"{whole:.6f}, {moved:.6f}"


def _less_mean(vectors: list[list[float]], yardstick: list[list[float]]) -> list[list[float]]:
    mean = [sum(column) / len(yardstick) for column in zip(*yardstick, strict=True)]
    return [[value - middle for value, middle in zip(vector, mean, strict=True)] for vector in vectors]


def _aims(results: Results) -> str:
    """Say of each aim whether it is met; a CPU's figures meet none."""
    rows = [_tokens_aim(results), *_ratio_aims(results), _start_aim(results)]
    return _rows(["aim", "measured", ""], rows)


def _on_gpu(figures: Figures | None) -> Figures | None:
    if (
        figures is None
        or figures["machine"]["device"].startswith("CPU")
        or "failed" in figures
        or figures.get("errors")
    ):
        return None
    return figures


def _verdict(aim: str, value: float | None, shown: str, *, met: bool) -> list[str]:
    return [aim, _NONE, "not run"] if value is None else [aim, shown, "met" if met else "not met"]


def _best(results: Results, shape: Shape, variant: str, tokens: int) -> Figures | None:
    """Return the figures of the load at which *variant* is fastest."""
    loads = [_on_gpu(results.load(shape, variant, load.key)) for load in LOADS if load.tokens == tokens]
    return max((load for load in loads if load), key=lambda load: float(load["tokens_per_s"]), default=None)


def _tokens_aim(results: Results) -> list[str]:
    best = _best(results, SHAPES["bge-base"], "compiled", 512)
    value = best["tokens_per_s"] if best else None
    shown = f"{value:.0f} on {best['machine']['device']}" if best else ""
    aim = "bge-base, 512 tokens a text: 1.0 M tokens/s over HTTP on an H100"
    return _verdict(aim, value, shown, met=value is not None and value >= _AIM_TOKENS_PER_S)


def _ratio_aims(results: Results) -> list[list[str]]:
    rows = []
    for shape in (SHAPES[name] for name in ("bge-base", "minilm", "qwen3-0.6b", "qwen3-8b")):
        ours = _best(results, shape, "compiled", 50)
        theirs = [found for name in ("vllm", "vllm-best") if (found := _best(results, shape, name, 50))]
        value = ours["texts_per_s"] / max(each["texts_per_s"] for each in theirs) if ours and theirs else None
        aim = f"{shape.name}, 50 tokens a text, each at its best load: 3 times vLLM's server, default or best flags"
        rows.append(_verdict(aim, value, f"{value or 0:.2f}", met=value is not None and value >= _AIM_RATIO))
    return rows


def _start_aim(results: Results) -> list[str]:
    start = _on_gpu(results.load(SHAPES["qwen3-0.6b"], "compiled", "start"))
    value = start["first_embedding_s"] if start else None
    aim = "qwen3-0.6b, no weights to read, carried cache: first embedding within 12 s"
    return _verdict(aim, value, f"{value or 0:.1f}", met=value is not None and value <= _AIM_START_S)
