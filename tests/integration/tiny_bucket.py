"""A tiny model in a bucket, its fetch into a folder, and faults in the middle of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from handler.s3_model import Located, fetch_description
from tests.s3_server import BUCKET, Fault, Request

SIZE = 5 * 2**20 + 17  # bytes of the weights: several ranges, the last one odd
RANGE = 2**20
WEIGHTS = np.random.default_rng(0).bytes(SIZE)
KEY = "org/tiny/model.safetensors"
OWN = (".finished.json", ".in_use", ".lock")  # files of the folder's own
URL = f"s3://{BUCKET}/org/tiny/"


def put(s3: Any, key: str, body: bytes, **options: str) -> None:
    """Upload one object."""
    s3.put_object(Bucket=BUCKET, Key=key, Body=body, **options)


def fetch(cache: Path, *, url: str = URL, attempts: int = 3) -> Path:
    """Fetch the whole model into a folder under *cache*."""
    located = fetch_description(url, cache, attempts=attempts, stream=None)
    fetch_weights(located)
    located.release()
    return located.folder


def fetch_weights(located: Located) -> None:
    """Fetch what is to be fetched."""
    assert located.fetch_weights is not None
    located.fetch_weights()


def on_weights(fault: Fault, *, first_byte: int = 2 * RANGE, times: int = 10**6) -> Any:
    """Break the first *times* reads of one range of the weights."""
    left = [times]

    def decide(request: Request) -> Fault | None:
        at = None if request.first_byte is None else request.first_byte // RANGE * RANGE
        hit = request.key == KEY and request.method == "GET" and at == first_byte and left[0] > 0
        left[0] -= hit
        return fault if hit else None

    return decide


def assert_whole(folder: Path) -> None:
    """The files are there, byte by byte, and nothing else is."""
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert {path.name for path in folder.iterdir()} == {*OWN, "config.json", "model.safetensors"}
