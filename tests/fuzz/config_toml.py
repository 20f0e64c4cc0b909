"""A PhariaInference worker's config.toml: variables in every output format, or problems by line."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.engine import fuzz, instrumented

_EXAMPLE = """edition = 1
[generator]
type = "vllm"
model_path = "/models/m"
max_model_len = 512
seed = 0
[queue]
url = "https://x"
token = "t"
checkpoint_name = "m"
tags = ["a", "b"]
[queue.models."m"]
maximum_completion_tokens = 8
description = "d"
embedding_task.supported = true
[monitoring]
metrics_port = 9000
tcp_probes = [9001, 9002]
"""


def seeds() -> Iterator[bytes]:
    """The whole file, and each line of it alone and missing."""
    lines = _EXAMPLE.splitlines(keepends=True)
    yield _EXAMPLE.encode()
    yield from (line.encode() for line in lines)
    yield from ("".join(lines[:index] + lines[index + 1 :]).encode() for index in range(len(lines)))
    yield from [b"a = 1e999", b"a = " + b"[" * 2000, b"a = " + b"9" * 4000, b"\xff", b"edition = 1979-05-27T07:32:00Z"]


def one(data: bytes) -> None:
    """Nothing but our own error, and every format can be written."""
    from handler.env_formats import FORMATS, ConversionError, write_environment
    from handler.toml_converter import convert

    try:
        entries = convert(data.decode(errors="replace"), engine_arguments=frozenset({"seed", "block_size"}))
        written = [write_environment(entries, form) for form in FORMATS]
    except ConversionError as error:
        assert str(error)
        return
    assert all(written)


if __name__ == "__main__":
    instrumented("handler.errors", "handler.settings", "handler.env_formats", "handler.toml_converter")
    fuzz(one)
