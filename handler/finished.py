"""What is told of a finished request to those who watch: nothing of its content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_TOLD = ("method", "route", "status", "total_ms", "error", "inputs", "tokens", "stages_ms")
_TRACE = ("traceparent", "tracestate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One answered request, probes excepted."""

    method: str
    route: str  # the pattern, never the client's path
    status: int
    total_ms: float
    error: str | None = None  # the code of its error
    inputs: int = 0
    tokens: int = 0
    stages_ms: Mapping[str, float] = field(default_factory=dict)  # one after the other
    trace: Mapping[str, str] = field(default_factory=dict)  # the client's W3C headers

    @classmethod
    def of(cls, line: Mapping[str, Any], header: Callable[[str], str | None]) -> Finished:
        """Take from a request's log *line* what it tells, and by *header* the client's trace."""
        told = {name: line[name] for name in _TOLD if name in line}
        return cls(**told, trace={name: value for name in _TRACE if (value := header(name)) is not None})


# Returns fields for the request's log line.
Watch = Callable[[Finished], Mapping[str, str]]
