from __future__ import annotations

import io
import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from handler.emf import EmfWriter
from handler.finished import Finished
from tests.server import wait_for

_NAME = {"type": "string", "minLength": 1, "maxLength": 255}
UNITS = [
    *("Seconds", "Microseconds", "Milliseconds", "Bytes", "Kilobytes", "Megabytes", "Gigabytes", "Terabytes"),
    *("Percent", "Count", "Bytes/Second", "Count/Second", "None"),
]
METRIC = {
    "type": "object",
    "required": ["Name"],
    "additionalProperties": False,
    "properties": {"Name": _NAME, "Unit": {"enum": UNITS}, "StorageResolution": {"enum": [1, 60]}},
}
DIRECTIVE = {
    "type": "object",
    "required": ["Namespace", "Dimensions", "Metrics"],
    "additionalProperties": False,
    "properties": {
        "Namespace": _NAME,
        "Dimensions": {"type": "array", "minItems": 1, "items": {"type": "array", "maxItems": 30, "items": _NAME}},
        "Metrics": {"type": "array", "minItems": 1, "maxItems": 100, "items": METRIC},
    },
}
AWS = {
    "type": "object",
    "required": ["Timestamp", "CloudWatchMetrics"],
    "properties": {
        "Timestamp": {"type": "integer", "minimum": 0},
        "CloudWatchMetrics": {"type": "array", "minItems": 1, "items": DIRECTIVE},
    },
}
VALUE = {"oneOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}, "maxItems": 100}]}

DIMENSION = {"type": "string", "minLength": 1, "maxLength": 1024}


def faults(line: dict[str, Any]) -> list[str]:
    """Validate *line* by the rules of AWS' specification of the format: its own members, then those they refer to."""
    schema = {"type": "object", "required": ["_aws"], "properties": {"_aws": AWS}}
    found = [error.message for error in Draft202012Validator(schema).iter_errors(line)]
    if found:
        return found
    directives = line["_aws"]["CloudWatchMetrics"]
    names = [metric["Name"] for directive in directives for metric in directive["Metrics"]]
    dimensions = [name for directive in directives for group in directive["Dimensions"] for name in group]
    targets = {
        "type": "object",
        "required": [*names, *dimensions],
        "properties": {
            **dict.fromkeys(names, VALUE),
            **dict.fromkeys(dimensions, DIMENSION),
        },
    }
    return [error.message for error in Draft202012Validator(targets).iter_errors(line)]


def writer(stream: io.StringIO, *, in_flight: int = 0) -> EmfWriter:
    """Write to *stream* only when told to."""
    return EmfWriter("names/pace", service="search", in_flight=lambda: in_flight, stream=stream, interval_s=3600)


def answered(status: int = 200, *, total_ms: float = 250, inputs: int = 0, tokens: int = 0) -> Finished:
    """One finished request."""
    return Finished(
        method="POST", route="/v1/embeddings", status=status, total_ms=total_ms, inputs=inputs, tokens=tokens
    )


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """Every line, each a whole JSON object."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_interval_is_one_line_of_the_format() -> None:
    """With what was counted in it, and the next begins at zero."""
    stream = io.StringIO()
    emf = writer(stream, in_flight=2)
    emf.started(61.5)
    emf.watch(answered(inputs=3, tokens=50))
    for status in (400, 429, 500, 503, 504):
        emf.watch(answered(status))
    emf.refused(status=431)
    emf.write()
    emf.watch(answered())
    emf.write()
    first, second = lines(stream)
    assert faults(first) == faults(second) == []
    counts = {name: value for name, value in first.items() if isinstance(value, list)}
    assert counts == {
        "Requests": [7],
        "Errors": [2],
        "Rejected": [2],
        "ClientErrors": [2],
        "Inputs": [3],
        "Tokens": [50],
        "StartFailures": [0],
        "EngineDeaths": [0],
        "InFlight": [2],
        "Latency": [250],
        "StartSeconds": [61.5],
    }
    assert (first["service"], first["event"]) == ("search", "metrics")
    assert (second["Requests"], second["Errors"], "Latency" in second) == ([1], [0], False)


def test_nothing_is_written_of_nothing() -> None:
    """An idle container costs no line."""
    stream = io.StringIO()
    emf = writer(stream)
    emf.write()
    emf.close()
    assert stream.getvalue() == ""


def test_the_line_does_not_grow_with_the_load() -> None:
    """Of many latencies a fair sample is kept: its median is near the whole's."""
    stream = io.StringIO()
    emf = writer(stream)
    for milliseconds in range(10_000):
        emf.watch(answered(total_ms=milliseconds, inputs=1, tokens=1))
    emf.close()
    (line,) = lines(stream)
    assert faults(line) == []
    assert line["Requests"] == [10_000]
    assert len(line["Latency"]) == 99
    assert 2500 < sorted(line["Latency"])[49] < 7500
    assert len(stream.getvalue()) < 4096


@pytest.mark.parametrize("metric", ["StartFailures", "EngineDeaths"])
def test_an_end_is_counted(metric: str) -> None:
    """The line is written when the process ends, without a request."""
    stream = io.StringIO()
    emf = writer(stream)
    emf.count(metric)
    emf.close()
    (line,) = lines(stream)
    assert line[metric] == [1]


def test_what_cannot_be_written_stops_nothing() -> None:
    """A disk is full, and the process must still be able to end."""

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "No space left on device")

    emf = writer(Full())
    emf.count("StartFailures")
    emf.close()


def test_a_broken_line_is_noticed() -> None:
    """The rules refuse what CloudWatch would drop in silence."""
    stream = io.StringIO()
    emf = writer(stream)
    emf.watch(answered(inputs=1, tokens=1))
    emf.close()
    (line,) = lines(stream)
    directive = line["_aws"]["CloudWatchMetrics"][0]
    for broken in (
        {**line, "Latency": ["1"]},
        {**line, "Latency": [1] * 101},
        {**line, "service": 5},
        {name: value for name, value in line.items() if name != "Errors"},
        {**line, "_aws": {"CloudWatchMetrics": [directive]}},
        {
            **line,
            "_aws": {"Timestamp": 1, "CloudWatchMetrics": [{**directive, "Metrics": [{"Name": "x", "Unit": "s"}]}]},
        },
    ):
        assert faults(broken) != []


def test_lines_come_while_it_runs() -> None:
    """One for each interval, from a thread that ends with the writer."""
    stream = io.StringIO()
    emf = EmfWriter("names/pace", service="search", in_flight=lambda: 0, stream=stream, interval_s=0.02)
    emf.watch(answered())
    wait_for(lambda: len(lines(stream)) == 1, timeout_s=10)
    emf.watch(answered())
    wait_for(lambda: len(lines(stream)) == 2, timeout_s=10)
    emf.close()
    assert sum(line["Requests"][0] for line in lines(stream)) == 2
