"""Requests made from the published OpenAPI document, valid and not, against the real server."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from tests.server import Server

CONFIG = Path(__file__).with_name("schemathesis.toml")
KEY = "fuzz-key"


def main() -> None:
    """Run schemathesis with its default checks; exit 1 on any failure, or on an error that the server logged."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.api", description=__doc__)
    parser.add_argument("--examples", type=int, default=25, help="per operation and phase")
    arguments = parser.parse_args()
    with Server(EMBED_API_KEYS=KEY) as server:
        server.wait_ready()
        schemathesis = [str(Path(sys.executable).with_name("st")), "--config-file", str(CONFIG)]
        command = [*schemathesis, "run", f"{server.url}/openapi.json", "--request-timeout", "60"]
        options = ["--max-examples", str(arguments.examples), "--seed", "1", "--no-color", "--continue-on-failure"]
        done = subprocess.run(
            [*command, "--header", f"Authorization: Bearer {KEY}", *options],
            capture_output=True,
            text=True,
            check=False,
        )
        broken = server.events("request_failed") + server.events("connection_failed")
        lives = server.embed(key=KEY, input="still here").status_code == 200
        threads = server.worker().num_threads()
    summary = done.stdout[done.stdout.find("= SUMMARY =") :]
    print(summary if done.returncode == 0 else done.stdout, done.stderr)
    print(f"{len(broken)} errors logged, {threads} threads, {'alive' if lives else 'dead'} afterwards")
    if done.returncode or broken or not lives or not re.search(r"\d+ generated", summary):
        sys.exit(1)


if __name__ == "__main__":
    main()
