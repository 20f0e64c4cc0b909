from __future__ import annotations

import logging

import numpy as np
import pytest

from tests.fake_app import build, loaded
from tests.fakes import SumCore


@pytest.mark.parametrize(
    ("normalizes", "asked", "unit"),
    [(True, None, True), (True, False, False), (False, None, False), (False, True, True)],
)
def test_vectors_have_the_length_that_the_model_gives_or_the_client_wants(
    normalizes: bool,  # noqa: FBT001
    asked: bool | None,  # noqa: FBT001
    unit: bool,  # noqa: FBT001
) -> None:
    """Its own modules decide where nobody asks."""
    client = build(model=loaded(SumCore(), normalizes=normalizes))
    answer = client.post("/v1/embeddings", json={"input": "a", "use_activation": asked}).json
    assert answer is not None
    raw = np.array([3, 103])
    assert np.allclose(answer["data"][0]["embedding"], raw / np.linalg.norm(raw) if unit else raw)


def test_stages_take_no_longer_than_the_request(caplog: pytest.LogCaptureFixture) -> None:
    """They are parts of it, in milliseconds."""
    with caplog.at_level(logging.INFO):
        build().post("/v1/embeddings", json={"input": "a"})
    (line,) = [vars(record) for record in caplog.records if record.message == "request"]
    assert all(milliseconds >= 0 for milliseconds in line["stages_ms"].values())
    assert 0 < sum(line["stages_ms"].values()) < line["total_ms"] + 0.01  # each is rounded


@pytest.mark.parametrize(("model", "status"), [(None, 200), ("", 200), ("sum", 200), ("none", 404), (" ", 404)])
def test_no_name_means_the_model_that_is_served(model: str | None, status: int) -> None:
    """An empty one too, as in vLLM's own server."""
    assert build().post("/v1/embeddings", json={"input": "a", "model": model}).status_code == status


def test_a_byte_order_mark_in_front_is_no_fault() -> None:
    """`curl --data-binary @file` sends that of a file which an editor of Windows saved."""
    body = '\N{ZERO WIDTH NO-BREAK SPACE}{"input": "a"}'.encode()
    assert build().post("/v1/embeddings", data=body, content_type="application/json").status_code == 200
