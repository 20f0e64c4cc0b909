"""JSON of the right shape from a fuzzer's bytes: mutated text alone hardly ever gets past the JSON parser.

Names and constants are those of a wire model's own JSON schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel

_DEEPEST = 4
_LONGEST = 5  # lists and objects within
_NUMBERS = [0, 1, -1, 2, 128, 2**31, 2**63, 0.5, -0.0, 1e308, float("inf"), float("nan")]


class Documents:
    """Makes documents for one wire model."""

    def __init__(self, wire: type[BaseModel]) -> None:
        """Learn the words of *wire*."""
        schema = wire.model_json_schema()
        self._definitions: dict[str, Any] = schema.get("$defs", {})
        self._properties: dict[str, Any] = schema["properties"]
        self._required = set(schema.get("required", ()))
        self._words = sorted(set(_words(schema)))

    def make(self, data: bytes) -> bytes:
        """Turn *data* into a document with some fields of the model, of which most have a value that fits."""
        import atheris  # patches the interpreter, so only where a target runs

        source = atheris.FuzzedDataProvider(data)
        content = {
            name: self._fitting(source, schema, 0) if source.ConsumeIntInRange(0, 7) else self._any(source, 0)
            for name, schema in self._properties.items()
            if name in self._required or source.ConsumeIntInRange(0, 3) == 0
        }
        return json.dumps(content, ensure_ascii=source.ConsumeBool()).encode(errors="surrogatepass")

    def _fitting(self, source: Any, schema: Any, depth: int) -> Any:
        if "$ref" in schema:
            return self._fitting(source, self._definitions[schema["$ref"].rpartition("/")[2]], depth)
        if parts := schema.get("anyOf") or schema.get("oneOf"):
            return self._fitting(source, source.PickValueInList(parts), depth)
        if constants := [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]:
            return source.PickValueInList(constants)
        several = range(source.ConsumeIntInRange(0, _LONGEST))
        makers: dict[str | None, Callable[[], Any]] = {
            "string": lambda: source.ConsumeUnicode(source.ConsumeIntInRange(0, 12)),
            "integer": lambda: source.ConsumeIntInRange(-2, 40_000),
            "number": lambda: source.PickValueInList(_NUMBERS),
            "boolean": source.ConsumeBool,
            "null": lambda: None,
            "array": lambda: [self._fitting(source, schema.get("items", {}), depth + 1) for _ in several],
            "object": lambda: {
                name: self._fitting(source, inner, depth + 1) for name, inner in schema.get("properties", {}).items()
            },
        }
        return makers.get(schema.get("type"), lambda: self._any(source, depth))()

    def _any(self, source: Any, depth: int) -> Any:
        """A word, a number, any text, a constant, or a list or object of such things."""
        simple: list[Callable[[], Any]] = [
            lambda: source.PickValueInList(self._words),
            lambda: source.PickValueInList(_NUMBERS),
            lambda: source.ConsumeInt(4),
            lambda: source.ConsumeUnicode(source.ConsumeIntInRange(0, 12)),
            lambda: source.PickValueInList([None, True, False]),
        ]
        if depth >= _DEEPEST:
            return source.PickValueInList(simple)()
        several = range(source.ConsumeIntInRange(0, _LONGEST))
        nested: list[Callable[[], Any]] = [
            lambda: [self._any(source, depth + 1) for _ in several],
            lambda: {source.PickValueInList(self._words): self._any(source, depth + 1) for _ in several},
        ]
        return source.PickValueInList(simple + nested)()


def _words(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for part in schema:
            yield from _words(part)
    elif isinstance(schema, dict):
        yield from schema.get("properties", {})
        for value in (*schema.get("enum", ()), schema.get("const")):
            if isinstance(value, str):
                yield value
        for part in schema.values():
            yield from _words(part)
