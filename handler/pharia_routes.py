"""PhariaInference's routes, each at `/x` and at `/v1/x`: its client joins host and path, and both hosts are in use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask, Response, jsonify, request

from handler import pharia
from handler.access import Access
from handler.application import read_body
from handler.encoding import Encoder
from handler.inquiry import Inquiry
from handler.listings import Listings
from handler.protocol import parse_body
from handler.service import EmbeddingService

ReadRequest = Callable[[bytes], tuple[Inquiry, Encoder]]  # from a body to what is asked for, and in which wire format


def pharia_embeddings(model_version: str) -> dict[str, ReadRequest]:
    """Return for each path that embeds how its requests are read; answers tell the operator's *model_version*."""
    readers: dict[str, ReadRequest] = {}
    for path, wire, encode in (
        ("/semantic_embed", pharia.SemanticRequest, pharia.encode_one),
        ("/batch_semantic_embed", pharia.BatchSemanticRequest, pharia.encode_batch),
        ("/instructable_embed", pharia.InstructableRequest, pharia.encode_one),
    ):
        read = partial(_read, wire, partial(encode, model_version=model_version))
        readers |= {path: read, f"/v1{path}": read}
    return readers


def _read(wire: type[Any], encode: Encoder, body: bytes) -> tuple[Inquiry, Encoder]:
    return parse_body(body, wire).inquiry(), encode


def add_pharia_routes(app: Flask, service: EmbeddingService, access: Access, *, listings: Listings) -> None:
    """Add every route that does not embed."""
    _add_tokenizer(app, service, access)
    _add(app, "/models_available", lambda: jsonify(listings.pharia_available()))
    _add(app, "/model-settings", lambda: jsonify(listings.pharia_settings()))
    _add(app, "/version", lambda: Response(pharia.API_VERSION, mimetype="text/plain"))


def _add(app: Flask, path: str, view: Callable[..., Response], *, method: str = "GET") -> None:
    for prefix in ("", "/v1"):
        app.add_url_rule(prefix + path, endpoint=path, view_func=view, methods=[method])


def _add_tokenizer(app: Flask, service: EmbeddingService, access: Access) -> None:
    def tokenize() -> Response:
        access.check(request.headers.get("Authorization"))
        asked = parse_body(read_body(), pharia.TokenizeRequest)
        with service.tokenizer(asked.model) as tokenizer:
            tokens = tokenizer.tokens(asked.parts)
        return jsonify(pharia.encode_tokens(asked, tokens))

    def detokenize() -> Response:
        access.check(request.headers.get("Authorization"))
        asked = parse_body(read_body(), pharia.DetokenizeRequest)
        with service.tokenizer(asked.model) as tokenizer:
            text = tokenizer.decode(asked.token_ids)
        return jsonify({"result": text})

    def tokenizer_json(name: str) -> Response:
        access.check(request.headers.get("Authorization"))
        with service.tokenizer(name) as tokenizer:
            content = tokenizer.as_json()
        return Response(content, mimetype="application/json")

    _add(app, "/tokenize", tokenize, method="POST")
    _add(app, "/detokenize", detokenize, method="POST")
    _add(app, "/models/<path:name>/tokenizer", tokenizer_json)
