"""What Aleph Alpha's own client gets, sync and async, against the reference."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aleph_alpha_client import EmbeddingV2Request, Prompt, SemanticRepresentation, Text, Tokens
from aleph_alpha_client.embedding import InstructableEmbeddingRequest
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from tests.integration.pharia_client import (
    DOCUMENT,
    MODEL,
    QUERY,
    SYMMETRIC,
    TEXT,
    batch,
    call_async,
    close,
    semantic,
    sync,
)
from tests.recipes import INSTRUCTION
from tests.references import reference
from tests.server import Server

DIMENSIONS = 160
BEFORE = {SYMMETRIC: "", QUERY: INSTRUCTION, DOCUMENT: ""}  # the folder's prompts


@pytest.mark.parametrize("host", ["", "/v1", "/v1/"])
def test_embeddings(qwen3: Server, folder: Path, host: str) -> None:
    """Float, base64, dimensions, lists and token ids through the newer call, which only the sync client has."""
    client = sync(qwen3, host)

    def rows(given: Any, **options: Any) -> Any:
        response = client.embeddings(EmbeddingV2Request(input=given, **options), model=MODEL)
        assert (response.object, response.model) == ("list", MODEL)
        assert [row.index for row in response.data] == list(range(len(response.data)))
        assert response.usage.prompt_tokens == response.usage.total_tokens
        return [row.embedding for row in response.data]

    expected = reference(folder, [TEXT, "hello"])
    assert close(rows(TEXT, encoding_format="float"), expected[:1])
    assert close(rows([TEXT, "hello"]), expected)
    assert close(rows("hello", dimensions=32), unit(expected[1, :32]))
    (packed,) = rows(TEXT, encoding_format="base64")
    assert close(np.frombuffer(base64.b64decode(packed), "<f4"), expected[0])
    ids = token_ids(folder, "hello")
    assert close(rows(ids), expected[1])
    assert close(rows([ids, ids]), expected[[1, 1]])


@pytest.fixture
def folder(qwen3_folder: Path) -> Path:
    """The tiny model that is served."""
    return qwen3_folder


def unit(vectors: np.ndarray) -> np.ndarray:
    """Bring each row to unit length."""
    result: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return result


def token_ids(folder: Path, text: str, *, special: bool = True) -> list[int]:
    """Tokenize with the folder's own tokenizer.json."""
    ids: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=special).ids
    return ids


@pytest.mark.parametrize("representation", [SYMMETRIC, QUERY, DOCUMENT])
@pytest.mark.parametrize("size", [None, 128])
def test_semantic_embed(
    qwen3: Server, folder: Path, ask: Callable[..., Any], representation: SemanticRepresentation, size: int | None
) -> None:
    """The sentence-transformers result with that prompt: raw or at unit length, whole or cut."""
    expected = reference(folder, [TEXT], prompt=BEFORE[representation], normalize=False)[0, :size]
    assert expected.shape == (size or DIMENSIONS,)
    for normalize in (False, True):
        request = semantic(TEXT, representation, normalize=normalize, compress_to_size=size)
        response = ask(qwen3, "semantic_embed", request, model=MODEL)
        assert close(response.embedding, unit(expected) if normalize else expected)
        assert response.model_version == "1"
        assert response.num_tokens_prompt_total == len(token_ids(folder, BEFORE[representation] + TEXT))


def test_batch_semantic_embed(qwen3: Server, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two hundred and fifty prompts, which the client sends in three pieces; order and counts are right."""
    texts = [f"{number} birds slowly cross river {number % 7}" for number in range(250)]
    asked = batch(texts, QUERY, normalize=True)
    concurrent = call_async(
        qwen3, "batch_semantic_embed", asked, model=MODEL, num_concurrent_requests=3, progress_bar=True
    )
    tokens = sum(len(token_ids(folder, INSTRUCTION + text)) for text in texts)
    some = [0, 99, 100, 199, 200, 249]
    expected = reference(folder, [texts[index] for index in some], prompt=INSTRUCTION)
    for response in (sync(qwen3).batch_semantic_embed(asked, model=MODEL), asyncio.run(concurrent)):
        assert (len(response.embeddings), response.num_tokens_prompt_total) == (250, tokens)
        assert close([response.embeddings[index] for index in some], expected)
    assert "3/3" in capsys.readouterr().err


def transformers_vector(folder: Path, text: str) -> np.ndarray:
    """Compute the raw vector of a Qwen3 with Transformers alone: the last token's hidden state."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
    vector: np.ndarray = states[0, -1].numpy()
    return vector


@pytest.mark.parametrize("instruction", ["", "Represent the question to find a page that answers it"])
@pytest.mark.parametrize("normalize", [False, True])
def test_instructable_embed(
    qwen3: Server,
    folder: Path,
    ask: Callable[..., Any],
    instruction: str,
    normalize: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Transformers' result on the concatenated text; the instruction is not counted."""
    request = InstructableEmbeddingRequest(input=Prompt.from_text(TEXT), instruction=instruction, normalize=normalize)
    response = ask(qwen3, "instructable_embed", request, model=MODEL)
    written = f"Instruct: {instruction}\nQuery:{TEXT}" if instruction else TEXT
    expected = transformers_vector(folder, written)
    assert close(response.embedding, unit(expected) if normalize else expected)
    assert response.num_tokens_prompt_total == len(token_ids(folder, TEXT))


def test_prompts_of_several_items(qwen3: Server, folder: Path, ask: Callable[..., Any]) -> None:
    """Texts and token ids are concatenated, and the prompt of the representation comes in front of all."""
    ids = token_ids(folder, " and tea", special=False)
    end = token_ids(folder, "")
    written = [*token_ids(folder, INSTRUCTION + "coffee", special=False), *ids, *token_ids(folder, "!")]
    expected = np.array(qwen3.embed(input=written).json()["data"][0]["embedding"])
    items = [Text.from_text("cof"), Text.from_text("fee"), Tokens.from_token_ids(ids), Text.from_text("!")]
    response = ask(qwen3, "semantic_embed", semantic(items, QUERY, normalize=True), model=MODEL)
    assert close(response.embedding, expected)
    assert response.num_tokens_prompt_total == len(written)
    # Special tokens that the client's own tokenizer has added are not added again.
    for sent in (token_ids(folder, TEXT, special=False), token_ids(folder, TEXT)):
        response = ask(qwen3, "semantic_embed", semantic([Tokens.from_token_ids(sent)]), model=MODEL)
        assert close(response.embedding, reference(folder, [TEXT], normalize=False))
    assert end == token_ids(folder, TEXT)[-1:]
