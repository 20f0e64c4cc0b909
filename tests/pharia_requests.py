"""Requests of PhariaInference's clients, for tests of their routes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from flask.testing import FlaskClient
from numpy.typing import NDArray

from handler.inquiry import Inquiry
from handler.pharia import (
    SemanticRequest,
)
from handler.protocol import parse_body
from tests.fakes import SumCore

SEMANTIC: dict[str, Any] = {"prompt": "a", "representation": "symmetric"}
BATCH: dict[str, Any] = {"prompts": ["a"], "representation": "symmetric"}
INSTRUCTABLE: dict[str, Any] = {"input": "a", "instruction": ""}
BODIES: dict[str, dict[str, Any]] = {
    "semantic_embed": SEMANTIC,
    "batch_semantic_embed": BATCH,
    "instructable_embed": INSTRUCTABLE,
    "tokenize": {"prompt": "a", "tokens": True, "token_ids": True},
    "detokenize": {"token_ids": [100]},
}


def text(data: str, **fields: Any) -> dict[str, Any]:
    """Return a text item of a prompt."""
    return {"type": "text", "data": data, **fields}


def token_ids(*data: int, **fields: Any) -> dict[str, Any]:
    """Return an item of token ids."""
    return {"type": "token_ids", "data": list(data), **fields}


def semantic(**fields: Any) -> Inquiry:
    """Parse a semantic request and return the inner one."""
    return parse_body(json.dumps({**SEMANTIC, **fields}).encode(), SemanticRequest).inquiry()


def post(client: FlaskClient, path: str, **changes: Any) -> dict[str, Any]:
    """POST the body of *path* with *changes* and return what comes back."""
    response = client.post(f"/{path}", json={**BODIES[path], **changes})
    assert response.status_code == 200, response.text
    assert response.json is not None
    return dict(response.json)


def refused(client: FlaskClient, path: str, **changes: Any) -> tuple[int, str, str]:
    """POST a bad body and return status, code and message, after a look at the envelope."""
    response = client.post(f"/{path}", json={**BODIES[path], **changes})
    assert response.json is not None
    assert set(response.json) == {"error", "code"}
    return response.status_code, response.json["code"], response.json["error"]


class WideCore(SumCore):
    """A core of 256 dimensions: token count, sum, then ones."""

    dimensions = 256

    def step(self) -> list[tuple[int, NDArray[np.float32]]]:
        """Fill up what the narrow core computes."""
        ones = np.ones(254, dtype=np.float32)
        return [(key, np.concatenate([vector, ones])) for key, vector in super().step()]
