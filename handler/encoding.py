"""Vectors to what a client asked for: chunk means, Matryoshka cut, unit length, response bytes."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import ml_dtypes
import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray

from handler.errors import InternalError
from handler.strands import make_way

log = logging.getLogger(__name__)

_SLICE_NUMBERS = 128 * 1024  # that are written at once: eight kilobytes may ask for a hundred megabytes of them

Vectors = NDArray[np.float32]  # (n, dim)

_DTYPES = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "fp8_e4m3": np.dtype(ml_dtypes.float8_e4m3fn),  # torch's and so vLLM's choice of the two e4m3 forms
    "fp8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
EncodingFormat = Literal["float", "base64", "bytes", "bytes_only"]


@dataclass(frozen=True, slots=True)
class Wire:
    """How a client wants its numbers written."""

    encoding_format: EncodingFormat = "float"
    embed_dtype: str = "float32"
    endianness: str = "native"


@dataclass(frozen=True, slots=True)
class Body:
    """A finished response body."""

    content: bytes
    mimetype: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


class Encoder(Protocol):
    """Writes the vectors of one request, (n, dim) in input order, in the wire format of its client."""

    def __call__(self, vectors: Vectors, *, token_count: int) -> Body:
        """Return the response body; *token_count* is what the usage shall say."""


def merge_chunks(vectors: Vectors, lengths: list[int], weights: list[int], *, unit_length: bool) -> Vectors:
    """Join the vectors of an input's chunks to their mean, weighted by their lengths.

    Args:
        vectors: (texts, dim), one row per engine text.
        lengths: texts per input, in order.
        weights: tokens per engine text.
        unit_length: bring each chunk to unit length first, as a client that averages embeddings would.

    Returns:
        (inputs, dim); the very array where no input was cut.
    """
    if len(lengths) == len(vectors):
        return vectors
    vectors = to_unit_length(vectors) if unit_length else vectors
    weight = np.asarray(weights, dtype=np.float32)[:, None]
    starts = np.cumsum([0, *lengths[:-1]])
    total: Vectors = np.add.reduceat(vectors * weight, starts) / np.add.reduceat(weight, starts)
    return total


def to_unit_length(vectors: Vectors) -> Vectors:
    """Scale each row of (n, dim) *vectors* to length 1; a row of zeros stays."""
    norms = np.sqrt(np.vecdot(vectors, vectors))[:, None]
    scaled: Vectors = vectors / np.maximum(norms, np.float32(1e-12))
    return scaled


def finish_vectors(vectors: Vectors, *, dimensions: int | None, unit_length: bool) -> Vectors:
    """Cut to *dimensions* and bring to unit length; raw rows of the engine in, rows for the client out.

    Raises:
        InternalError: a row is not finite; a client must never get null for a number.
    """
    if dimensions is not None:
        vectors = vectors[:, :dimensions]
    if not (finite := np.isfinite(vectors)).all():
        not_finite = int((~finite.all(axis=1)).sum())
        log.error("vector_not_finite", extra={"vectors": len(vectors), "not_finite": not_finite})
        raise InternalError("the model computed a vector that is not finite for this input")
    return to_unit_length(vectors) if unit_length else vectors


def encode_response(vectors: Vectors, wire: Wire, *, model: str, token_count: int) -> Body:
    """Write (n, dim) *vectors* as the response that *wire* asks for."""
    head = {"id": f"embd-{os.urandom(16).hex()}", "created": int(time.time()), "model": model}
    usage = {"prompt_tokens": token_count, "total_tokens": token_count}
    if wire.encoding_format == "float":
        before = {**head, "object": "list"}
        return Body(json_around(before, "data", vectors, _embedding_object, {"usage": usage}))
    packed = _packed(vectors, wire)
    if wire.encoding_format == "base64":
        return Body(_base64_json(packed, {"object": "list", **head}, usage))
    headers = {"metadata": _metadata(packed, wire, head, usage)} if wire.encoding_format == "bytes" else {}
    return Body(packed.tobytes(), "application/octet-stream", headers)


def _embedding_object(index: int, row: NDArray[np.float32]) -> dict[str, object]:
    return {"object": "embedding", "index": index, "embedding": row}


def json_around(
    before: Mapping[str, object],
    name: str,
    vectors: Vectors,
    item: Callable[[int, NDArray[np.float32]], object],
    after: Mapping[str, object],
) -> bytes:
    """Write a JSON object whose field *name* lists what *item* makes of each index and row of (n, dim) *vectors*.

    The fields of *before* and *after* stand around it.
    """
    pieces: list[bytes | memoryview] = [orjson.dumps(before)[:-1], b',"%b":' % name.encode()]
    for begin, end in _slices(vectors):
        rows = [item(index, vectors[index]) for index in range(begin, end)]
        written = memoryview(orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY))
        pieces += [b"," if begin else b"[", written[1:-1]]
    pieces += [b"],", orjson.dumps(after)[1:]]
    return b"".join(pieces)


def _slices(vectors: NDArray[np.generic]) -> Iterator[tuple[int, int]]:
    """Cut (n, dim) *vectors* into ranges of rows that are written in milliseconds; between them others go on."""
    rows = max(1, _SLICE_NUMBERS // vectors.shape[1])
    for begin in range(0, len(vectors), rows):
        if begin:
            make_way()
        yield begin, min(begin + rows, len(vectors))


def _packed(vectors: Vectors, wire: Wire) -> NDArray[np.generic]:
    """Return contiguous *vectors* in the dtype and byte order of *wire*; the same array for plain float32."""
    packed: NDArray[np.generic] = np.ascontiguousarray(vectors)
    if (dtype := _DTYPES[wire.embed_dtype]) != packed.dtype:
        packed = np.empty(vectors.shape, dtype)
        for begin, end in _slices(vectors):
            packed[begin:end] = vectors[begin:end]
    little = np.little_endian if wire.endianness == "native" else wire.endianness == "little"
    return packed if little == np.little_endian else packed.view(f"u{packed.itemsize}").byteswap()


def _base64_json(packed: NDArray[np.generic], head: dict[str, object], usage: dict[str, int]) -> bytes:
    """Join the response from bytes: base64 needs no escaping, and no string object is made per row."""
    size = packed.shape[1] * packed.itemsize
    flat = packed.view(np.uint8).ravel().data
    rows = [
        b'{"object":"embedding","index":%d,"embedding":"%b"}'
        % (index, pybase64.b64encode(flat[index * size : (index + 1) * size]))
        for begin, end in _slices(packed)
        for index in range(begin, end)
    ]
    return b'%b,"data":[%b],"usage":%b}' % (orjson.dumps(head)[:-1], b",".join(rows), orjson.dumps(usage))


def _metadata(packed: NDArray[np.generic], wire: Wire, head: dict[str, object], usage: dict[str, int]) -> str:
    """Describe the rows the way vLLM's clients split them."""
    size = packed.shape[1] * packed.itemsize
    rows = [
        {
            "index": index,
            "embed_dtype": wire.embed_dtype,
            "endianness": wire.endianness,
            "start": index * size,
            "end": (index + 1) * size,
            "shape": [packed.shape[1]],
        }
        for index in range(len(packed))
    ]
    told = json.dumps(head, separators=(",", ":"))  # in ASCII, as headers are; a model's name may be in any script
    return f"{told[:-1]},{orjson.dumps({'data': rows, 'usage': usage}).decode()[1:]}"
