"""A PhariaInference worker's config.toml to this server's environment: `python -m handler env-from-toml`."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from handler.engine_args import OURS
from handler.env_formats import Comment, ConversionError, Entry, Variable
from handler.setting_checks import port_problems
from handler.settings import Settings

KeyPath = tuple[str, ...]

# TOML key -> field of `Settings`; `*` is the name of a model
_FIELDS = {
    "generator.model_path": "model_path",
    "generator.max_model_len": "max_model_len",
    "generator.max_num_seqs": "max_num_seqs",
    "generator.pipeline_parallel_size": "pipeline_parallel_size",
    "generator.tensor_parallel_size": "tensor_parallel_size",
    "generator.task": "task",
    "queue.checkpoint_name": "model_name",
    "queue.version": "model_version",
    "queue.tags": "tags",
    "queue.http_request_retries": "http_request_retries",
    "queue.service_name": "service_name",
    "queue.service_role": "service_role",
    "queue.models.*.maximum_completion_tokens": "maximum_completion_tokens",
    "queue.models.*.description": "model_description",
    "queue.models.*.embedding_task.supported": "embedding_task_supported",
    "monitoring.metrics_port": "metrics_port",
    "monitoring.tcp_probes": "tcp_probes",
}
_NO_COUNTERPART = {
    "edition": "checked, it is 1",
    "generator.type": "checked, it is vllm",
    "queue.url": "this server pulls from no queue; the function's URL and the platform's queue take its place",
    "queue.token": "a worker's credential, not needed here; the keys of clients are EMBED_API_KEYS",
}
_FIXED = {"edition": 1, "generator.type": "vllm"}
_REQUIRED = ("edition", "generator.type", "generator.model_path")
_SECTIONS = {"generator", "queue", "queue.models", "queue.models.*", "queue.models.*.embedding_task", "monitoring"}


class _Conversion:
    """What has been found in one document so far."""

    def __init__(self, text: str, engine_arguments: frozenset[str] | None) -> None:
        """Start with the file's *text*, of which a problem wants the line; see `convert`."""
        self._text = text
        self._known_arguments = engine_arguments
        self.entries: list[Entry] = []
        self.problems: list[str] = []
        self.engine_args: dict[str, Any] = {}

    def take(self, path: KeyPath, value: Any, *, main_model: str | None) -> None:
        """Turn one key into a variable, a comment, an engine argument or a problem."""
        key = _pattern(path)
        if key in _FIXED and (type(value), value) != (type(_FIXED[key]), _FIXED[key]):  # true and 1.0 equal 1
            self.refuse(path, f"must be {json.dumps(_FIXED[key])}")
        elif key in _NO_COUNTERPART:
            self.entries.append(Comment(f"{_shown(path)}: {_NO_COUNTERPART[key]}"))
        elif key in _FIELDS and path[:2] == ("queue", "models") and path[2] != main_model:
            self.entries.append(Comment(f"{_shown(path)}: one server has one model; the other table describes it"))
        elif key in _FIELDS:
            self.set(path, _FIELDS[key], value)
        elif path[0] == "generator" and path[-1] in OURS:
            self.refuse(path, "cannot be set; the model is that of generator.model_path")
        elif len(path) == 2 and path[0] == "generator" and self._is_engine_argument(path[1]):  # noqa: PLR2004 - section and key
            self.engine_args[path[1]] = value
        elif value != {} or key not in _SECTIONS:
            self.refuse(path, f"no such key; the nearest is {_nearest(key, self._known_arguments)}")

    def set(self, path: KeyPath, field: str, value: Any) -> None:
        """Set the variable of *field* for the key at *path*, if its value is one that the server would take."""
        text = _text(value, commas=field == "tcp_probes")
        typed = tuple(value) if isinstance(value, list) else value
        if field == "model_version" and type(value) is int:
            typed = text  # the document's own example has a number
        if problem := Settings.problem(field, typed, strict=True) or Settings.problem(field, text):
            self.refuse(path, problem)
        elif text:
            self.entries.append(Variable(Settings.variable(field), text))
        else:
            self.entries.append(Comment(f"{_shown(path)} is empty: {Settings.variable(field)} stays unset"))

    def _is_engine_argument(self, name: str) -> bool:
        return self._known_arguments is None or name in self._known_arguments

    def refuse(self, path: KeyPath, problem: str) -> None:
        """Note a problem of the key at *path*."""
        self.problems.append(f"line {_line_of(path, self._text)}: {_shown(path)}: {problem}")


def convert(text: str, *, engine_arguments: frozenset[str] | None) -> list[Entry]:
    """Convert the *text* of a config.toml.

    Args:
        text: TOML of edition 1.
        engine_arguments: the names that vLLM knows, None where it is not installed; then the start checks them.

    Raises:
        ConversionError: not TOML, a key that is unknown or missing, or a value that the server would refuse.
    """
    text = text.replace("\r\n", "\n")
    found = dict(_leaves(_parse(text)))
    models = list(dict.fromkeys(path[2] for path in found if path[:2] == ("queue", "models") and path[2:]))
    served = str(found.get(("queue", "checkpoint_name")) or Path(str(found.get(("generator", "model_path")))).name)
    main = served if served in models else next(iter(models), None)
    conversion = _Conversion(text, engine_arguments)
    for path, value in found.items():
        conversion.take(path, value, main_model=main)
    missing = {*_REQUIRED} - {_pattern(path) for path, value in found.items() if str(value).strip()}
    conversion.problems += [f"{key}: this key is missing" for key in _REQUIRED if key in missing]
    if conversion.engine_args:
        conversion.set(("generator",), "engine_args", conversion.engine_args)
        if engine_arguments is None:
            conversion.entries.append(Comment("EMBED_ENGINE_ARGS: vLLM is not installed here; the start checks it"))
    _add_aliases(conversion, [name for name in models if name != served])
    _check_ports(conversion, found)
    if conversion.problems:
        raise ConversionError("\n".join(conversion.problems))
    return conversion.entries


def _add_aliases(conversion: _Conversion, aliases: list[str]) -> None:
    for name in aliases:
        if "," in name:
            conversion.refuse(("queue", "models", name), "a model's name must not hold a comma")
    if aliases:
        conversion.set(("queue", "models"), "model_aliases", ",".join(aliases))


def _check_ports(conversion: _Conversion, found: Mapping[KeyPath, Any]) -> None:
    """Refuse ports that are the same, where each by itself is one."""
    metrics, probes = ("monitoring", "metrics_port"), ("monitoring", "tcp_probes")
    if not conversion.problems:
        named = {_shown(metrics): found.get(metrics), _shown(probes): tuple(found.get(probes, ()))}
        for problem in port_problems(named):
            conversion.refuse(probes, problem.partition(": ")[2])


def _parse(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        lines = text.split("\n")
        end = f"line {len(lines)}, column {len(lines[-1]) + 1}"
        message = f"not valid TOML: {str(exc).replace('end of document', end)}"
        raise ConversionError(message) from None
    except (ValueError, RecursionError) as exc:  # numbers of thousands of digits, endless nesting
        message = f"not valid TOML: {type(exc).__name__}"
        raise ConversionError(message) from None


def _leaves(table: Mapping[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every key with its value; a table in `generator` is a value, for an engine argument may be one."""
    for key, value in table.items():
        here = (*path, key)
        if isinstance(value, dict) and value and path != ("generator",):
            yield from _leaves(value, here)
        else:
            yield here, value


def _pattern(path: KeyPath) -> str:
    """Return the key with `*` for the name of a model."""
    in_model = path[:2] == ("queue", "models") and len(path) > 2  # noqa: PLR2004 - the name comes third
    return ".".join((*path[:2], "*", *path[3:]) if in_model else path)


def _shown(path: KeyPath) -> str:
    bare = (part.replace("-", "").replace("_", "").isalnum() and part.isascii() for part in path)
    return ".".join(part if plain else json.dumps(part) for part, plain in zip(path, bare, strict=True))


def _nearest(key: str, engine_arguments: frozenset[str] | None) -> str:
    known = [*_FIELDS, *_NO_COUNTERPART, *(f"generator.{name}" for name in engine_arguments or ())]
    return difflib.get_close_matches(key, known, n=1, cutoff=0)[0]


def _text(value: Any, *, commas: bool) -> str:
    """Write *value* as an environment variable holds it."""
    if isinstance(value, str):
        return value
    if commas and isinstance(value, list):
        return ",".join(str(item) for item in value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _line_of(path: KeyPath, text: str) -> int:
    """Find the line on which a key begins.

    tomllib keeps no lines, but it parses every beginning of the file that does not end within a value: the key begins
    behind the last one that is without it.
    """
    lines = text.split("\n")
    start = 1
    for count in range(1, len(lines) + 1):
        try:
            document: Any = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue
        for key in path:
            document = document.get(key) if isinstance(document, dict) else None
        if document is not None:
            break
        start = count + 1
    return start


def engine_arguments() -> frozenset[str] | None:
    """Return the names of vLLM's engine arguments, None where vLLM is not installed.

    Its source is read, not imported: that would take seconds.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return None
    source = ast.parse((Path(spec.origin).parent / "engine" / "arg_utils.py").read_text(encoding="utf-8"))
    classes = (node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "EngineArgs")
    fields = (node.target for found in classes for node in found.body if isinstance(node, ast.AnnAssign))
    return frozenset(field.id for field in fields if isinstance(field, ast.Name) and not field.id.startswith("_"))


def convert_file(file: Path) -> list[Entry]:
    """Read *file* and convert it.

    Raises:
        ConversionError: it cannot be read or converted.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors put a mark in front
    except OSError as exc:
        message = f"{file} cannot be read: {exc.strerror}"
        raise ConversionError(message) from exc
    except UnicodeDecodeError as exc:
        before = exc.object[: exc.start]
        column = exc.start - (before.rfind(b"\n") + 1) + 1
        message = f"not valid TOML: not UTF-8 (at line {before.count(10) + 1}, column {column})"
        raise ConversionError(message) from None
    return convert(text, engine_arguments=engine_arguments())
