"""Break the real server in every way we know, and print what was seen: `python -m tests.survival`, exit 1 on any no."""

from __future__ import annotations

import argparse
import sys
import time

from tests.survival.faults import CHOICES, faults
from tests.survival.overload import overload, overload_elsewhere
from tests.survival.report import table
from tests.survival.soak import soak


def main() -> None:
    """Run overload, soak and faults; a duration of 0 leaves one of the first two out."""
    parser = argparse.ArgumentParser(prog="python -m tests.survival", description=__doc__)
    parser.add_argument("--overload", type=float, default=300, help="seconds at three times the capacity")
    parser.add_argument("--goodput", type=float, default=0.9, help="the share of the capacity answered meanwhile")
    parser.add_argument("--goodput-random", type=float, default=0.9, help="that of the most answered at random times")
    parser.add_argument("--health-ms", type=float, default=50, help="the 99th percentile of /health meanwhile")
    parser.add_argument("--soak", type=float, default=900, help="seconds of the mixed trace")
    parser.add_argument("--faults", choices=CHOICES, default="all", help="untested: what `make test` does not run")
    arguments = parser.parse_args()
    rows = []
    if arguments.overload:
        rows += overload(
            arguments.overload,
            least=arguments.goodput,
            least_of_random=arguments.goodput_random,
            health_s=arguments.health_ms / 1000,
        )
        rows += overload_elsewhere()
    if arguments.soak:
        rows += soak(arguments.soak)
    rows += faults(CHOICES[arguments.faults])
    print(time.strftime("%Y-%m-%d"), table(rows), sep="\n\n")
    if failed := [row for row in rows if not row.survived]:
        print("not survived:", *(f"{row.what}: {row.seen}" for row in failed), sep="\n", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
