"""DistilBERT, MPNet and ALBERT, which vLLM computes as BERT: from every place that weights come from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import models
from tests.forked import ForkedServer
from tests.integration.test_families import COSINE, cosines, texts_up_to, vectors
from tests.references import reference
from tests.s3_server import BUCKET, CREDENTIALS, moto_server, upload
from tests.server import Server

TEXTS = texts_up_to(64)


def with_a_head(weights: dict[str, Any]) -> dict[str, Any]:
    """Name everything as a checkpoint of the language model does, whose head is there too."""
    heads = {"vocab_transform.weight": torch.ones(64, 64), "vocab_layer_norm.bias": torch.ones(64)}
    return {f"distilbert.{name}": value for name, value in weights.items()} | heads


def with_mpnets_head(weights: dict[str, Any]) -> dict[str, Any]:
    """Do the same for MPNet, whose old checkpoints list the positions."""
    more = {"lm_head.dense.weight": torch.ones(64, 64), "mpnet.embeddings.position_ids": torch.arange(202)[None, :]}
    return {f"mpnet.{name}": value for name, value in weights.items()} | more


def with_alberts_head(weights: dict[str, Any]) -> dict[str, Any]:
    """Do the same for ALBERT."""
    heads = {"predictions.dense.weight": torch.ones(32, 64), "sop_classifier.classifier.bias": torch.ones(2)}
    return {f"albert.{name}": value for name, value in weights.items()} | heads


def without_the_bias(weights: dict[str, Any]) -> dict[str, Any]:
    """Take away what vLLM's BERT has no place for by itself, in MPNet or in ALBERT."""
    gone = ("relative_attention_bias.weight", "embedding_hidden_mapping_in.weight")
    return {name: value for name, value in weights.items() if not name.endswith(gone)}


def without_a_matrix(weights: dict[str, Any]) -> dict[str, Any]:
    """Take away a matrix, and one of three that vLLM stacks."""
    gone = {"transformer.layer.1.ffn.lin2.weight", "transformer.layer.0.attention.k_lin.weight"}
    return {name: value for name, value in weights.items() if name not in gone}


def changed(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """Copy *folder* with other weights, as the language model is saved."""
    copy = folder.parent / f"{folder.name}-{change.__name__}"
    shutil.copytree(folder, copy)
    save_file(change(load_file(folder / "model.safetensors")), copy / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    classes = [name.replace("Model", "ForMaskedLM") for name in config["architectures"]]
    (copy / "config.json").write_text(json.dumps({**config, "architectures": classes}))
    return copy


@pytest.fixture(params=["distilbert-mean"])
def model(request: pytest.FixtureRequest, folders: Path, tmp_path: Path) -> Path:
    """A folder that a test may write beside."""
    folder = tmp_path / "model"
    shutil.copytree(models.build(request.param, folders), folder)
    return folder


def assert_same(server: Server, model: Path) -> None:
    """Texts of every length come out as sentence-transformers computes them."""
    worst = cosines(vectors(server.wait_ready(), TEXTS), reference(model, TEXTS)).min()
    print(f"lowest cosine {worst:.7f}")
    assert worst >= COSINE


@pytest.mark.parametrize(
    ("model", "change"),
    [("distilbert-mean", with_a_head), ("mpnet-mean", with_mpnets_head), ("albert-mean", with_alberts_head)],
    indirect=["model"],
)
def test_a_checkpoint_of_the_language_model(model: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Its names begin with the model's, and its head is not for embedding."""
    with ForkedServer(EMBED_MODEL_PATH=str(changed(model, change))) as server:
        assert_same(server, model)


@pytest.mark.parametrize(
    ("model", "named"),
    [("mpnet-mean", "relative_attention_bias.weight"), ("albert-mean", "widen.weight")],
    indirect=["model"],
)
def test_a_checkpoint_that_lacks_the_bias(model: Path, named: str) -> None:
    """Or ALBERT's matrix behind its words: it is refused, for without it the vectors would be others."""
    with ForkedServer(EMBED_MODEL_PATH=str(changed(model, without_the_bias))) as server:
        assert server.wait_exit(180) == 3, server.log()
        (event,) = server.events("start_failed")
    assert named in event["reason"]
    assert event["reason"].endswith("download the model again")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_checkpoint_that_lacks_a_matrix(model: Path, workers: str) -> None:
    """It is refused, though vLLM would serve what the memory held; in worker processes too, which are spawned here."""
    settings = {"EMBED_TENSOR_PARALLEL_SIZE": workers, "VLLM_CPU_OMP_THREADS_BIND": "0|1" if workers == "2" else "auto"}
    with ForkedServer(EMBED_MODEL_PATH=str(changed(model, without_a_matrix)), **settings) as server:
        assert server.wait_exit(180) == 3, server.log()
        (event,) = server.events("start_failed")
        said = event["reason"] if workers == "1" else server.log()  # of a worker vLLM only says that it failed
    assert "MissingWeightsError: vLLM found no weights, or NaN, in the checkpoint for" in said
    assert "layer.0.attention.self.qkv_proj.weight" in said
    assert "layer.1.output.dense.weight" in said


def test_weights_are_streamed(model: Path, tmp_path: Path) -> None:
    """From a bucket into the engine, by another loader of vLLM's; those that are fetched lie in a folder."""
    with moto_server() as url:
        client = boto3.Session("x", "x", region_name="us-east-1").client("s3", endpoint_url=url)
        client.create_bucket(Bucket=BUCKET)
        upload(client, model, "tiny/")
        settings = {
            "EMBED_MODEL_PATH": f"s3://{BUCKET}/tiny/",
            "EMBED_LOAD_FORMAT": "runai_streamer",
            "EMBED_CACHE_DIR": str(tmp_path / "cache"),
            "AWS_ENDPOINT_URL": url,
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
            **CREDENTIALS,
        }
        with ForkedServer(**settings) as server:
            assert_same(server, model)
