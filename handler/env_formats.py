"""Environment variables as each deployment file wants them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass


class ConversionError(Exception):
    """The file cannot be converted; one line per problem, none of which quotes a value."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Comment:
    """What to tell of a key that no variable stands for."""

    text: str


Entry = Variable | Comment


def _as_env(entry: Entry) -> str:
    return f"# {entry.text}" if isinstance(entry, Comment) else f"{entry.name}={shlex.quote(entry.value)}"


def _as_docker(entry: Entry) -> str:
    """Write a line of `docker run --env-file`, which knows no quotes."""
    if isinstance(entry, Comment):
        return f"# {entry.text}"
    if "\n" in entry.value:
        message = f"{entry.name}: an env file of Docker cannot hold a value of several lines"
        raise ConversionError(message)
    return f"{entry.name}={entry.value}"


def _as_cloudformation(entry: Entry) -> str:
    return f"    # {entry.text}" if isinstance(entry, Comment) else f"    {entry.name}: {_yaml(entry.value)}"


def _as_cloudrun(entry: Entry) -> str:
    if isinstance(entry, Comment):
        return f"  # {entry.text}"
    return f"  - name: {entry.name}\n    value: {_yaml(entry.value)}"


def _yaml(text: str) -> str:
    """Write a double-quoted YAML string."""
    escaped = (char if char.isprintable() and char not in '"\\' else f"\\U{ord(char):08x}" for char in text)
    return f'"{"".join(escaped)}"'


# name -> what comes first, and how an entry is written
FORMATS: dict[str, tuple[str, Callable[[Entry], str]]] = {
    "env": ("", _as_env),
    "docker": ("", _as_docker),
    "cloudformation": ("Environment:\n  Variables:\n", _as_cloudformation),
    "cloudrun": ("env:\n", _as_cloudrun),
}


def write_environment(entries: Iterable[Entry], form: str) -> str:
    """Write *entries* in one of `FORMATS`.

    Raises:
        ConversionError: the format cannot hold a value.
    """
    head, write = FORMATS[form]
    return head + "".join(write(entry) + "\n" for entry in entries)
