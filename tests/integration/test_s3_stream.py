"""A loader that streams the weights from the bucket into the engine."""

from __future__ import annotations

from pathlib import Path

import boto3
import numpy as np
import pytest
import runai_model_streamer_s3

from tests import models
from tests.forked import ForkedServer
from tests.references import reference
from tests.s3_server import BUCKET, CREDENTIALS, moto_server, upload

TEXT = "Where is the Eiffel Tower?"


NOBODY = {"AWS_SHARED_CREDENTIALS_FILE": "/nowhere", "AWS_DEFAULT_REGION": CREDENTIALS["AWS_DEFAULT_REGION"]}


@pytest.mark.parametrize("who", [CREDENTIALS, NOBODY], ids=["credentials", "nobody"])
def test_weights_are_streamed_past_the_disk(folders: Path, tmp_path: Path, who: dict[str, str]) -> None:
    """Configuration, tokenizer and modules are fetched, the weights go from the bucket into the engine.

    So they do from a public bucket without credentials.
    """
    assert runai_model_streamer_s3  # its half for S3 is a package of its own
    model = models.build("modernbert-dense", folders)
    with moto_server() as url:
        client = boto3.Session("x", "x", region_name="us-east-1").client("s3", endpoint_url=url)
        client.create_bucket(Bucket=BUCKET, ACL="public-read")
        upload(client, model, "tiny/", ACL="public-read")
        settings = {
            "EMBED_MODEL_PATH": f"s3://{BUCKET}/tiny/",
            "EMBED_LOAD_FORMAT": "runai_streamer",
            "EMBED_CACHE_DIR": str(tmp_path),
            "AWS_ENDPOINT_URL": url,
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
            "AWS_EC2_METADATA_DISABLED": "true",
            **who,
        }
        with ForkedServer(**settings) as server:
            server.wait_ready()
            vector = np.array(server.embed(input=TEXT).json()["data"][0]["embedding"])
    expected = reference(model, [TEXT])[0]
    cosine = float(vector @ expected) / float(np.linalg.norm(vector) * np.linalg.norm(expected))
    assert cosine > 0.9999
    fetched = {path.relative_to(tmp_path).parts[2:] for path in (tmp_path / "s3").rglob("*.safetensors")}
    assert fetched == {("2_Dense", "model.safetensors")}
