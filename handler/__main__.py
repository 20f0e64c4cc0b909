"""`python -m handler [serve]`: run the server in the foreground."""

from __future__ import annotations

import argparse
import sys


def main() -> None:
    """Parse the command line; everything that serves is set by the environment."""
    parser = argparse.ArgumentParser(prog="python -m handler", description="Serve embeddings; settings: see README.")
    parser.add_argument("command", nargs="?", default="serve", choices=["serve"])
    parser.parse_args()
    serve()


def serve() -> None:
    """Run gunicorn in this process."""
    from gunicorn.app.wsgiapp import run  # noqa: PLC0415 - the engine's spawned processes import this module too

    sys.argv = ["gunicorn", "--config", "python:handler.gunicorn_conf", "handler.wsgi:create_app()"]
    run(prog="serverless-embeddings")


if __name__ == "__main__":
    main()
