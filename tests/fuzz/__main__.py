"""Coverage-guided fuzzing of our own parsers: `python -m tests.fuzz TARGET|all --runs N`; prints runs and edges."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TARGETS = ["framing", "openai_wire", "pharia_wire", "tokenizer", "config_toml"]
_SLOWEST_INPUT_S = 10  # libFuzzer stops at an input that takes longer


def main() -> None:
    """Run targets and print one row each; exit 1 when one has found something."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--runs", type=int, default=20_000, help="inputs per target")
    arguments = parser.parse_args()
    print("| target | runs | edges at first | edges | features | seconds |\n|---|---|---|---|---|---|")
    clean = [run(target, arguments.runs) for target in TARGETS if arguments.target in (target, "all")]
    if not all(clean):
        sys.exit(1)


def run(target: str, runs: int) -> bool:
    """Fuzz one target from its seeds; False, with libFuzzer's own words, when it found something."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, found = Path(folder, "corpus"), Path(folder, "found")
        corpus.mkdir()
        found.mkdir()
        for index, seed in enumerate(importlib.import_module(f"tests.fuzz.{target}").seeds()):
            Path(corpus, f"seed-{index}").write_bytes(seed)
        options = [
            f"-runs={runs}",
            f"-timeout={_SLOWEST_INPUT_S}",
            f"-artifact_prefix={found}/",
            "-seed=1",
            "-len_control=0",
        ]
        command = [sys.executable, "-m", f"tests.fuzz.{target}", "-max_len=4096", *options, str(corpus)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        for file in found.iterdir():
            print(f"{target}: {file.name}: {file.read_bytes()!r}", file=sys.stderr)
    edges = [(int(cov), int(ft)) for cov, ft in re.findall(r"cov: (\d+) ft: (\d+)", done.stderr)]
    ended = re.search(r"Done (\d+) runs in (\d+) second", done.stderr)
    if done.returncode or ended is None or not edges:
        print(done.stdout[-4000:], done.stderr[-4000:], file=sys.stderr)
        print(f"| {target} | failed | | | | |")
        return False
    print(f"| {target} | {ended[1]} | {edges[0][0]} | {edges[-1][0]} | {edges[-1][1]} | {ended[2]} |", flush=True)
    return edges[-1][0] >= edges[0][0]


if __name__ == "__main__":
    main()
