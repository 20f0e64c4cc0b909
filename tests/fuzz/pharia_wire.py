"""PhariaInference's wire formats: bytes to inquiries and parts, or an error of ours.

The first byte picks the route, and from 128 on it makes a document of the others.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from tests.fuzz.documents import Documents
from tests.fuzz.engine import fuzz, instrumented


def seeds() -> Iterator[bytes]:
    """Every route with every kind of prompt."""
    prompts = [
        "a",
        [{"type": "text", "data": "a"}],
        [{"type": "token_ids", "data": [1, 2]}, {"type": "text", "data": "b"}],
    ]
    prompts += [[{"type": "image", "data": "x"}], [{"type": "text", "data": "a", "controls": [1]}], [], [1]]
    for prompt in prompts:
        semantic = {"representation": "query", "compress_to_size": 128, "normalize": True, "model": "m"}
        yield b"\x00" + json.dumps({"prompt": prompt, **semantic}).encode()
        yield b"\x01" + json.dumps({"prompts": [prompt, "b"], **semantic}).encode()
        yield b"\x02" + json.dumps({"input": prompt, "instruction": "i", "normalize": False}).encode()
        yield b"\x03" + json.dumps({"prompt": prompt, "tokens": True, "token_ids": True}).encode()
    yield b"\x04" + json.dumps({"token_ids": [1, 2, 3]}).encode()
    yield from (bytes([number]) + bytes([number]) * 40 for number in range(128, 256, 7))


def one(data: bytes) -> None:
    """What is accepted can be asked of the model."""
    from handler import pharia
    from handler.errors import ServiceError
    from handler.protocol import parse_body

    wires: list[type[BaseModel]] = [
        pharia.SemanticRequest,
        pharia.BatchSemanticRequest,
        pharia.InstructableRequest,
        pharia.TokenizeRequest,
    ]
    wires.append(pharia.DetokenizeRequest)
    first = data[0] if data else 0
    wire = wires[first % len(wires)]
    try:
        request: Any = parse_body(_documents(wire).make(data[1:]) if first >= 128 else data[1:], wire)
    except ServiceError as error:
        assert 400 <= error.status < 500
        return
    if isinstance(request, pharia.TokenizeRequest):
        pharia.encode_tokens(request, [(1, "a")])
        assert all(isinstance(part, str | list) for part in request.parts)
    elif not isinstance(request, pharia.DetokenizeRequest):
        assert len(request.inquiry().inputs) >= 1


_documents = functools.cache(Documents)

if __name__ == "__main__":
    instrumented("handler.errors", "handler.protocol", "handler.encoding", "handler.pharia")
    fuzz(one)
