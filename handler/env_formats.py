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


def _as_env(variable: Variable) -> str:
    return f"{variable.name}={shlex.quote(variable.value)}"


def _as_docker(variable: Variable) -> str:
    """Write a line of `docker run --env-file`, which knows no quotes."""
    if "\n" in variable.value:
        message = f"{variable.name}: an env file of Docker cannot hold a value of several lines"
        raise ConversionError(message)
    return f"{variable.name}={variable.value}"


def _as_cloudformation(variable: Variable) -> str:
    return f"{variable.name}: {_yaml(variable.value)}"


def _as_cloudrun(variable: Variable) -> str:
    return f"- name: {variable.name}\n    value: {_yaml(variable.value)}"


def _yaml(text: str) -> str:
    """Write a double-quoted YAML string."""
    escaped = (char if char.isprintable() and char not in '"\\' else f"\\U{ord(char):08x}" for char in text)
    return f'"{"".join(escaped)}"'


# name -> what comes first, what stands before each entry, and how a variable is written
FORMATS: dict[str, tuple[str, str, Callable[[Variable], str]]] = {
    "env": ("", "", _as_env),
    "docker": ("", "", _as_docker),
    "cloudformation": ("Environment:\n  Variables:\n", "    ", _as_cloudformation),
    "cloudrun": ("env:\n", "  ", _as_cloudrun),
}


def write_environment(entries: Iterable[Entry], form: str) -> str:
    """Write *entries* in one of `FORMATS`.

    Raises:
        ConversionError: the format cannot hold a value.
    """
    head, indent, write = FORMATS[form]
    written = (f"# {entry.text}" if isinstance(entry, Comment) else write(entry) for entry in entries)
    return head + "".join(f"{indent}{lines}\n" for lines in written)
