"""What many write first: sentence-transformers behind FastAPI.

`uvicorn tests.bench.plain_server:app` serves the folder PLAIN_MODEL.
"""

from __future__ import annotations

import base64
import os
from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

app = FastAPI()
model = SentenceTransformer(os.environ["PLAIN_MODEL"], device="cpu", local_files_only=True)


class Request(BaseModel):
    """As much of OpenAI's request as the bench sends."""

    input: str | list[str]
    model: str
    encoding_format: str = "float"


@app.post("/v1/embeddings")
def embeddings(request: Request) -> dict[str, Any]:
    """Embed in FastAPI's thread pool."""
    texts = [request.input] if isinstance(request.input, str) else request.input
    vectors = np.asarray(model.encode(texts, normalize_embeddings=True, show_progress_bar=False), dtype=np.float32)
    if request.encoding_format == "base64":
        rows: list[Any] = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
    else:
        rows = vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    return {"object": "list", "data": data, "model": request.model, "usage": {"prompt_tokens": 0, "total_tokens": 0}}
