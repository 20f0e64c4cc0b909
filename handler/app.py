"""Routes and error envelopes; translates, decides nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from handler import __version__
from handler.access import Access
from handler.application import Application, read_body
from handler.encoding import Encoder, Wire, encode_response
from handler.errors import (
    AuthenticationError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    ModelNotFoundError,
    RequestTooLargeError,
    RouteNotFoundError,
    ServiceError,
)
from handler.finished import Finished, Watch
from handler.inquiry import Inquiry
from handler.lifecycle import Lifecycle, State
from handler.listings import Listings, ModelCard
from handler.logs import current_request, new_request_id, where
from handler.metrics import Metrics
from handler.pages import add_pages
from handler.pharia_routes import add_pharia_routes, speaks_pharia
from handler.protocol import EmbeddingRequest, parse_request
from handler.service import Answer, EmbeddingService, LoadedModel

log = logging.getLogger(__name__)

_REQUEST_ID = "embed.request_id"  # keys of the WSGI environ, which lives exactly as long as one request
_RECEIVED = "embed.received"
_ANSWER = "embed.answer"
_ERROR = "embed.error"
_PROBES = {"health", "ready", "ping", "metrics"}  # asked every few seconds; logged at DEBUG only
_TIMED = ("queue", "tokenize", "engine", "encode")
_PING_STATUS = {State.READY: 200, State.STARTING: 204}  # RunPod's words for ready and initializing; 503 is unhealthy


def create_app(  # noqa: PLR0913 - the composition root names every collaborator once
    service: EmbeddingService,
    lifecycle: Lifecycle[LoadedModel],
    access: Access,
    *,
    card: ModelCard,
    metrics: Metrics,
    max_body_bytes: int,
    cors_allow_origins: tuple[str, ...] = (),
    pages_need_key: bool = False,
    watches: tuple[Watch, ...] = (),
) -> Flask:
    """Build the WSGI application; it answers while the model loads."""
    app = Application("handler", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]  # a field of Flask's default provider
    listings = Listings(card, service.rules, lambda: lifecycle.model)
    respond = partial(_respond, service)
    _add_embeddings(app, service, access)
    _add_models(app, service, listings)
    add_pharia_routes(app, service, access, listings=listings, respond=respond)
    _add_probes(app, service, lifecycle)
    add_pages(app, service.rules, access, metrics=metrics, need_key=pages_need_key)
    _add_errors(app)
    _add_request_log(app, metrics, watches)
    if cors_allow_origins:
        from flask_cors import CORS  # noqa: PLC0415 - only where browsers are let in

        CORS(app, origins=list(cors_allow_origins), expose_headers=["x-request-id", "server-timing", "retry-after"])
    app.extensions["sheds"] = not cors_allow_origins  # the worker's own answers have no CORS headers
    return app


def _add_embeddings(app: Flask, service: EmbeddingService, access: Access) -> None:
    @app.post("/v1/embeddings")
    @app.post("/embeddings")
    @app.post("/invocations")  # SageMaker's one route
    def embeddings() -> Response:
        access.check(request.headers.get("Authorization"))
        asked = parse_request(read_body())
        encode = partial(encode_response, wire=_wire(asked), model=service.rules.names[0])
        return _respond(service, asked.inquiry(), encode)


def _wire(asked: EmbeddingRequest) -> Wire:
    return Wire(
        encoding_format=asked.encoding_format or "float",
        embed_dtype=asked.embed_dtype or "float32",
        endianness=asked.endianness or "native",
    )


def _respond(service: EmbeddingService, inquiry: Inquiry, encode: Encoder) -> Response:
    """Embed and answer, whatever the wire format; the request log finds the answer in the environ."""
    environ = request.environ
    environ[_ANSWER] = answer = service.embed(inquiry, encode, received=environ[_RECEIVED])
    response = Response(answer.body.content, mimetype=answer.body.mimetype, headers=answer.body.headers)
    response.headers["Server-Timing"] = ", ".join([f"{name};dur={answer.stages_ms[name]}" for name in _TIMED])
    return response


def _add_models(app: Flask, service: EmbeddingService, listings: Listings) -> None:
    @app.get("/v1/models")
    @app.get("/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [listings.openai(name) for name in service.rules.names]}

    @app.get("/v1/models/<path:name>")
    @app.get("/models/<path:name>")
    def model(name: str) -> dict[str, Any]:
        if name not in service.rules.names:
            message = f"this server has no such model; it serves {', '.join(service.rules.names)}"
            raise ModelNotFoundError(message, param="model")
        return listings.openai(name)


def _add_probes(app: Flask, service: EmbeddingService, lifecycle: Lifecycle[LoadedModel]) -> None:
    @app.get("/health")
    def health() -> tuple[dict[str, Any], int]:
        model = lifecycle.model
        content = {
            "state": lifecycle.state,
            "version": __version__,
            "phases_s": lifecycle.phases,
            "in_flight": lifecycle.in_flight,
            "model": {
                "name": service.rules.names[0],
                "architecture": model.architecture if model else None,
                "dimensions": model.dimensions if model else None,
                "max_tokens": model.max_tokens if model else None,
                "pooling": model.pooling if model else None,
                "normalizes": model.normalizes if model else None,
                "dtype": model.dtype if model else None,
                "matryoshka": str(model.matryoshka) if model else None,
                "prompts": sorted(model.prompts.known) if model else None,
            },
        }
        return content, 503 if lifecycle.state is State.FAILED else 200

    @app.get("/ready")
    def ready() -> tuple[dict[str, Any], int]:
        return {"state": lifecycle.state}, 200 if lifecycle.state is State.READY else 503

    @app.get("/ping")
    def ping() -> tuple[str, int]:
        return "", _PING_STATUS.get(lifecycle.state, 503)


def _add_errors(app: Flask) -> None:
    @app.errorhandler(ServiceError)
    def service_error(error: ServiceError) -> Response:
        response = _pharia_error(error) if speaks_pharia(request.path) else _openai_error(error)
        request.environ[_ERROR] = error.code or error.type
        if error.retry_after is not None:
            response.headers["Retry-After"] = str(error.retry_after)
        if isinstance(error, AuthenticationError):
            response.headers.extend([("WWW-Authenticate", challenge) for challenge in error.challenges])
        return response

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        response = service_error(_translated(error))
        if isinstance(error, MethodNotAllowed):  # RFC 9110 section 15.5.6 wants this header with it
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods or []))
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        # Neither the message nor the values of a foreign exception: they may quote the client's text.
        log.error("request_failed", extra={"error": type(error).__name__, "where": where(error)})
        return service_error(InternalError("something broke on our side; the log has the details"))


def _openai_error(error: ServiceError) -> Response:
    content = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    response = jsonify({"error": content})
    response.status_code = error.status
    return response


def _pharia_error(error: ServiceError) -> Response:
    response = jsonify({"error": error.message, "code": error.pharia_code})
    response.status_code = error.pharia_status or error.status
    return response


def _translated(error: HTTPException) -> ServiceError:
    if isinstance(error, NotFound):
        return RouteNotFoundError("there is nothing at this path; embeddings are at POST /v1/embeddings")
    if isinstance(error, MethodNotAllowed):
        return MethodNotAllowedError(f"use {', '.join(sorted(error.valid_methods or []))} at this path")
    if isinstance(error, RequestEntityTooLarge):
        return RequestTooLargeError("the body is larger than this server takes (EMBED_MAX_BODY_BYTES)")
    if error.code is not None and error.code < 500:  # noqa: PLR2004 - the range of client errors
        return InvalidRequestError(f"the request cannot be read: {error.name.lower()}")
    return InternalError("something broke on our side; the log has the details")


def _add_request_log(app: Flask, metrics: Metrics, watches: tuple[Watch, ...]) -> None:
    @app.before_request
    def begin() -> None:
        environ = request.environ
        environ[_RECEIVED] = time.monotonic()
        environ[_REQUEST_ID] = _request_id(environ.get("HTTP_X_REQUEST_ID"))
        current_request.set(environ[_REQUEST_ID])

    @app.after_request
    def finish(response: Response) -> Response:
        environ, rule = request.environ, request.url_rule
        response.headers["x-request-id"] = environ[_REQUEST_ID]
        answer: Answer | None = environ.get(_ANSWER)
        error: str | None = environ.get(_ERROR)
        route = rule.rule if rule else "unknown"  # the pattern, never the client's path
        probed = rule is not None and rule.endpoint in _PROBES
        seconds = time.monotonic() - environ[_RECEIVED]
        fields: dict[str, Any] = {
            "request_id": environ[_REQUEST_ID],
            "method": environ["REQUEST_METHOD"],
            "route": route,
            "status": response.status_code,
            "total_ms": round(1000 * seconds, 3),
        }
        metrics.answered(route=route, status=response.status_code, seconds=seconds, reason=error)
        if answer is not None:
            metrics.embedded(inputs=answer.inputs, tokens=answer.tokens, stages_ms=answer.stages_ms)
            fields |= {"inputs": answer.inputs, "tokens": answer.tokens, "stages_ms": answer.stages_ms}
        if error is not None:
            fields["error"] = error
        if watches and not probed:
            finished = Finished.of(fields, request.headers.get)
            for watch in watches:
                fields |= watch(finished)
        emit: Callable[..., None] = log.debug if probed else log.info
        emit("request", extra=fields)
        return response


def _request_id(sent: str | None) -> str:
    """Keep the client's id where it is printable ASCII of at most 128 characters, else make one."""
    if sent and len(sent) <= 128 and sent.isascii() and sent.isprintable():  # noqa: PLR2004 - said in the docstring
        return sent
    return new_request_id()
