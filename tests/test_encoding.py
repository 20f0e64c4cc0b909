from __future__ import annotations

import base64
import json

import numpy as np
import pytest
import torch

from handler.encoding import Wire, encode_response, finish_vectors, merge_chunks
from handler.errors import InternalError

VECTORS = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
TORCH_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def test_float_numbers_survive_json_exactly() -> None:
    """Every float32 comes back bit for bit."""
    body = encode_response(VECTORS, Wire(), model="m", token_count=9)
    content = json.loads(body.content)
    assert np.array_equal(np.array([row["embedding"] for row in content["data"]], dtype=np.float32), VECTORS)
    assert [row["index"] for row in content["data"]] == list(range(5))
    assert {row["object"] for row in content["data"]} == {"embedding"}
    assert (content["object"], content["model"]) == ("list", "m")
    assert content["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert content["id"].startswith("embd-")
    assert isinstance(content["created"], int)


def test_base64_and_float_differ_in_the_embedding_only() -> None:
    """The hand-joined JSON has the fields of the other one."""
    plain = json.loads(encode_response(VECTORS, Wire(), model="m", token_count=9).content)
    packed = json.loads(encode_response(VECTORS, Wire("base64"), model="m", token_count=9).content)
    for row, expected in zip(packed["data"], VECTORS, strict=True):
        assert np.array_equal(np.frombuffer(base64.b64decode(row.pop("embedding")), "<f4"), expected)
    for row in plain["data"]:
        del row["embedding"]
    assert {**plain, "id": 0, "created": 0} == {**packed, "id": 0, "created": 0}


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_every_dtype_is_torchs(dtype: str) -> None:
    """Clients decode with torch: the bytes must be those that torch would have made."""
    body = encode_response(VECTORS, Wire("bytes_only", dtype, "little"), model="m", token_count=1)
    expected = torch.from_numpy(VECTORS).to(TORCH_DTYPES[dtype]).view(torch.uint8).numpy().tobytes()
    assert body.content == expected
    assert body.mimetype == "application/octet-stream"
    assert body.headers == {}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_big_endian_turns_the_bytes_of_each_number(dtype: str) -> None:
    """Native is little here."""
    little, big, native = (
        encode_response(VECTORS, Wire("bytes_only", dtype, order), model="m", token_count=1).content
        for order in ("little", "big", "native")
    )
    assert native == little
    size = len(little) // VECTORS.size
    assert np.array_equal(np.frombuffer(little, f"<u{size}"), np.frombuffer(big, f">u{size}"))


def test_bytes_come_with_the_metadata_that_splits_them() -> None:
    """The header is vLLM's: one item per row with start, end, shape and dtype."""
    body = encode_response(VECTORS, Wire("bytes", "float16"), model="m", token_count=9)
    metadata = json.loads(body.headers["metadata"])
    for item, row in zip(metadata["data"], VECTORS, strict=True):
        part = np.frombuffer(body.content[item["start"] : item["end"]], np.float16).reshape(item["shape"])
        assert np.array_equal(part, row.astype(np.float16))
        assert (item["embed_dtype"], item["endianness"]) == ("float16", "native")
    assert metadata["usage"]["prompt_tokens"] == 9


def test_a_cut_vector_gets_unit_length() -> None:
    """Matryoshka: truncate, then renormalise."""
    vectors = finish_vectors(VECTORS, dimensions=4, unit_length=True)
    assert vectors.shape == (5, 4)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.allclose(vectors, VECTORS[:, :4] / np.linalg.norm(VECTORS[:, :4], axis=1, keepdims=True))


def test_raw_vectors_stay_raw() -> None:
    """Without unit length not a bit is changed."""
    assert np.array_equal(finish_vectors(VECTORS, dimensions=None, unit_length=False), VECTORS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_an_error(bad: float) -> None:
    """A client must never get null for a number."""
    vectors = VECTORS.copy()
    vectors[3, 3] = bad
    with pytest.raises(InternalError):
        finish_vectors(vectors, dimensions=None, unit_length=True)


def test_chunks_are_averaged_by_their_lengths() -> None:
    """Inputs that were not cut keep their vector."""
    rows = np.array([[1, 0], [0, 2], [0, 4], [3, 3]], dtype=np.float32)
    merged = merge_chunks(rows, [1, 2, 1], [9, 3, 1, 9], unit_length=False)
    assert merged.tolist() == [[1, 0], [0, 2.5], [3, 3]]
    assert merge_chunks(rows, [1, 1, 1, 1], [1, 1, 1, 1], unit_length=True) is rows
    turned = merge_chunks(rows[:2], [2], [3, 1], unit_length=True)
    assert np.allclose(turned, [[0.75, 0.25]])


@pytest.mark.parametrize("wire", [Wire(), Wire("base64"), Wire("base64", "float16"), Wire("bytes", "fp8_e5m2", "big")])
def test_many_numbers_are_written_in_slices_and_others_go_on_between(
    monkeypatch: pytest.MonkeyPatch, wire: Wire
) -> None:
    """A body of eight kilobytes may ask for a hundred megabytes; the answer is the same however it is cut."""
    monkeypatch.setattr("handler.encoding.time.time", lambda: 1)
    monkeypatch.setattr("handler.encoding.os.urandom", bytes)
    ways: list[int] = []
    monkeypatch.setattr("handler.encoding.make_way", lambda: ways.append(1))
    whole = encode_response(VECTORS, wire, model="m", token_count=9)
    assert not ways
    monkeypatch.setattr("handler.encoding._SLICE_NUMBERS", VECTORS.shape[1])
    assert encode_response(VECTORS, wire, model="m", token_count=9) == whole
    assert len(ways) % (len(VECTORS) - 1) == 0
    assert ways


def test_a_header_is_ascii_whatever_the_model_is_called() -> None:
    """It would be no HTTP otherwise; JSON has a way to write any name."""
    told = encode_response(VECTORS, Wire("bytes"), model="モデル", token_count=9).headers["metadata"]
    assert told.isascii()
    assert json.loads(told)["model"] == "モデル"
