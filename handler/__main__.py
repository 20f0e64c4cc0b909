"""`python -m handler [serve]` runs the server in the foreground; `env-from-toml` converts a worker's config.toml."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from handler.env_formats import FORMATS, ConversionError, write_environment


def main() -> None:
    """Parse the command line; everything that serves is set by the environment."""
    parser = argparse.ArgumentParser(prog="python -m handler", description="Serve embeddings; settings: see README.")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="run the server (the default)")
    converter = commands.add_parser("env-from-toml", help="print the environment for a PhariaInference worker's file")
    converter.add_argument("file", type=Path, help="config.toml")
    converter.add_argument("--format", choices=FORMATS, default="env", help="where the output goes (default: env)")
    arguments = parser.parse_args()
    if arguments.command == "env-from-toml":
        print_environment(arguments.file, arguments.format)
    else:
        serve()


def print_environment(file: Path, form: str) -> None:
    """Print what *file* becomes, or its problems and exit 1."""
    from handler.toml_converter import convert_file  # noqa: PLC0415 - serving needs none of it

    try:
        text = write_environment(convert_file(file), form)
    except ConversionError as problem:
        sys.exit("\n".join(f"{file}: {line}" for line in str(problem).splitlines()))
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, UnicodeEncodeError) as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is written at the exit once more
        sys.exit(f"the output cannot be written: {exc.strerror if isinstance(exc, OSError) else exc.reason}")


def serve() -> None:
    """Run gunicorn in this process."""
    from gunicorn.app.wsgiapp import run  # noqa: PLC0415 - the engine's spawned processes import this module too

    sys.argv = ["gunicorn", "--config", "python:handler.gunicorn_conf", "handler.wsgi:create_app()"]
    run(prog="serverless-embeddings")


if __name__ == "__main__":
    main()
