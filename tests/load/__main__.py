"""Run locust on a server and judge what it recorded; `make load` calls it, in an environment that has locust.

Exit codes: 0, all was as it must be; 1, something was not; 2, the load could not be run.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from http import HTTPStatus

from tests.load.options import ROOT, Options
from tests.load.record import read
from tests.load.summary import summarise

_STOP_TIMEOUT_S = 140  # longer than any answer takes: what is under way when the load ends still counts
_FIRST_TIMEOUT_S = 130  # as locust's own clients wait
_MARGIN_S = 600
_STEPS = 20


def served_model(options: Options) -> str:
    """Return the name of the first model that the server lists.

    Raises:
        OSError: there is no such server, or it does not answer.
        ValueError: what answers is not a list of models.
    """
    request = urllib.request.Request(f"{options.url}/v1/models", headers=options.headers)  # noqa: S310 - see `main`
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        try:
            return str(json.load(answer)["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as exc:
            raise ValueError("what /v1/models answers is no list of models") from exc


def ask_once(options: Options, model: str) -> None:
    """Ask for one embedding: a key or a model that is wrong would else be told after a whole ramp.

    Raises:
        OSError: there is no such server, or it does not answer.
        ValueError: it refuses, and not only because it is busy or loads.
    """
    body = json.dumps({"model": model, "input": "text"}).encode()
    request = urllib.request.Request(f"{options.url}/v1/embeddings", body, options.headers)  # noqa: S310 - see `main`
    try:
        urllib.request.urlopen(request, timeout=_FIRST_TIMEOUT_S).close()  # noqa: S310
    except urllib.error.HTTPError as refusal:
        refusal.close()
        if refusal.code not in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
            told = f"{refusal.code} {refusal.reason}"
            raise ValueError(f"/v1/embeddings answers the first request with {told}; see KEY and MODEL") from None


def run_locust(options: Options, model: str) -> int:
    """Put the load on the server; locust's reports go to the folder.

    Raises:
        OSError: the folder cannot be written, or locust did not end in time.
    """
    command = [sys.executable, "-m", "locust", "--locustfile", "tests/load/locustfile.py", "--headless"]
    command += ["--host", options.url, "--stop-timeout", str(_STOP_TIMEOUT_S), "--exit-code-on-error", "0"]
    command += ["--html", str(options.out / "report.html"), "--csv", str(options.out / "stats")]
    command += ["--only-summary", "--loglevel", "WARNING", *options.clients]
    longest = options.soak_s if options.shape == "soak" else _STEPS * options.step_s + 3 * options.hold_s
    environment = {**os.environ, "MODEL": model, "OUT": str(options.out.resolve())}
    with (options.out / "locust.txt").open("w") as log:  # its own table of every kind of request
        limit_s = longest + _MARGIN_S
        try:
            done = subprocess.run(command, cwd=ROOT, env=environment, stderr=log, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"locust did not end within {limit_s:g} s") from None
    return done.returncode


def make_folder(options: Options) -> None:
    """Make the folder of the reports.

    Raises:
        ValueError: it cannot be made.
    """
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ValueError(f"OUT cannot be a folder: {exc.strerror}") from exc


def main() -> int:
    """Ask what is served, put load on it, print the summary."""
    try:
        options = Options.from_environment()
        if not options.url.startswith(("http://", "https://")):
            raise ValueError("URL must begin with http:// or https://")  # noqa: TRY301 - told like the others
        make_folder(options)
        model = options.model or served_model(options)
        ask_once(options, model)
        code = run_locust(options, model)
    except (OSError, ValueError) as problem:
        print(f"cannot load: {problem}", file=sys.stderr)
        return 2
    if code:
        print(f"locust ended with {code}; see {options.out / 'locust.txt'}", file=sys.stderr)
        return 2
    summary = summarise(read(options.out / "seconds.jsonl"), options)
    today = dt.datetime.now(tz=dt.UTC).date()
    text = f"\n## Load on {model}, {options.shape}, {today}\n\n{summary}"
    (options.out / "summary.md").write_text(text.lstrip())
    print(text)
    return 1 if summary.problems else 0


if __name__ == "__main__":
    sys.exit(main())
