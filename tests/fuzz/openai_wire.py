"""OpenAI's wire format: bytes to an inquiry, or an error of ours; an odd first byte makes a document of the others."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

from tests.fuzz.documents import Documents
from tests.fuzz.engine import fuzz, instrumented


def seeds() -> Iterator[bytes]:
    """Every field, valid and not."""
    fields = [
        {"input": "a", "model": "m", "encoding_format": "base64", "dimensions": 2, "user": "u"},
        {"input": ["a", "b"], "prompt_name": "query", "truncate_prompt_tokens": -1, "truncation_side": "left"},
        {"input": [1, 2, 3], "add_special_tokens": False, "use_activation": True, "normalize": True},
        {"input": [[1], [2, 3]], "embed_dtype": "bfloat16", "endianness": "big", "priority": -1},
        {"messages": [{"role": "user", "content": "a"}], "add_generation_prompt": True, "chat_template_kwargs": {}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]},
        {"input": None, "messages": None},
        {"input": [], "instruction": "i", "input_type": "query"},
        {"input": [None, {}, 1.5, True], "dimensions": 0},
    ]
    yield from (b"\x00" + json.dumps(content).encode() for content in fields)
    yield from (b"\x01" + bytes([number]) * 40 for number in range(0, 256, 37))
    yield from (b"\x00" + raw for raw in _RAW)


_RAW = [
    b"",
    b"null",
    b"[" * 3000,
    b'{"input":"\\ud800"}',
    b'{"input":1e999}',
    b'{"input":NaN}',
    b'{"input":"\xff"}',
]


def one(data: bytes) -> None:
    """What is accepted has inputs, and an error quotes nothing."""
    from handler.errors import ServiceError
    from handler.protocol import EmbeddingRequest, parse_request

    documents = _documents(EmbeddingRequest)
    try:
        request = parse_request(documents.make(data[1:]) if data and data[0] % 2 else data[1:])
    except ServiceError as error:
        assert 400 <= error.status < 500
        assert error.message
        return
    inquiry = request.inquiry()
    assert len(inquiry.inputs) >= 1
    assert (request.texts is None) or (request.token_lists is None)
    assert inquiry.dimensions is None or inquiry.dimensions >= 1


_documents = functools.cache(Documents)

if __name__ == "__main__":
    instrumented("handler.errors", "handler.protocol")
    fuzz(one)
