"""Routes and error envelopes; translates, decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from handler import __version__
from handler.access import Access
from handler.application import FAILED, Application, DirectEmbeddings, Embed, answer_headers, read_body
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
    speaks_pharia,
)
from handler.finished import Watch
from handler.inquiry import Inquiry
from handler.lifecycle import Lifecycle, State
from handler.listings import Listings, ModelCard
from handler.logs import where
from handler.metrics import Metrics
from handler.pages import add_pages
from handler.pharia_routes import ReadRequest, add_pharia_routes, pharia_embeddings
from handler.protocol import parse_request
from handler.request_log import ANSWER, ERROR, RECEIVED, REQUEST_ID, RequestLog, begin
from handler.service import Answer, EmbeddingService, LoadedModel

log = logging.getLogger(__name__)

_OPENAI_ROUTES = ("/v1/embeddings", "/embeddings", "/invocations")  # the last is SageMaker's one route
_PROBES = {"health", "ready", "ping", "metrics"}
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
    app.url_map.merge_slashes = False  # by redirects, in HTML, to whatever host the client has named
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]  # a field of Flask's default provider
    listings = Listings(card, service.rules, lambda: lifecycle.model)
    request_log = RequestLog(metrics, watches)
    read = partial(_read, service.rules.names[0])
    readers: dict[str, ReadRequest] = {**dict.fromkeys(_OPENAI_ROUTES, read), **pharia_embeddings(card.version)}
    embeds: dict[str, Embed] = {route: partial(_embed, service, access, reader) for route, reader in readers.items()}
    _add_embeddings(app, embeds)
    _add_models(app, service, listings)
    add_pharia_routes(app, service, access, listings=listings)
    _add_probes(app, service, lifecycle)
    add_pages(app, service.rules, access, metrics=metrics, need_key=pages_need_key)
    _add_errors(app)
    _add_request_log(app, request_log)
    if cors_allow_origins:
        from flask_cors import CORS  # noqa: PLC0415 - only where browsers are let in

        exposed = ["x-request-id", "server-timing", "retry-after", "metadata"]
        CORS(app, origins=list(cors_allow_origins), expose_headers=exposed)
    else:  # what does not come from Flask has no CORS headers
        app.wsgi_app = DirectEmbeddings(app.wsgi_app, embeds, request_log, max_body_bytes=max_body_bytes)  # type: ignore[method-assign]  # as Flask's documentation wraps it
    app.extensions["sheds"] = not cors_allow_origins  # nor have the worker's own answers
    return app


def _add_embeddings(app: Flask, embeds: Mapping[str, Embed]) -> None:
    def view(embed: Embed) -> Response:
        environ = request.environ
        if FAILED in environ:
            raise environ.pop(FAILED)  # popped, and in no variable: it must not hold what holds it
        environ[ANSWER] = answer = embed(environ, read_body)
        return Response(answer.body.content, headers=answer_headers(answer))

    for route, embed in embeds.items():
        app.add_url_rule(route, endpoint=route, view_func=partial(view, embed), methods=["POST"])


def _embed(
    service: EmbeddingService,
    access: Access,
    read_request: ReadRequest,
    environ: dict[str, Any],
    read: Callable[[], bytes],
) -> Answer:
    """Embed what *read* returns, for whoever may ask."""
    access.check(environ.get("HTTP_AUTHORIZATION"))
    inquiry, encode = read_request(read())
    return service.embed(inquiry, encode, received=environ[RECEIVED])


def _read(model: str, body: bytes) -> tuple[Inquiry, Encoder]:
    """Read a request in OpenAI's format; *model* is named in the answer."""
    asked = parse_request(body)
    wire = Wire(asked.encoding_format or "float", asked.embed_dtype or "float32", asked.endianness or "native")
    return asked.inquiry(), partial(encode_response, wire=wire, model=model)


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
        pharia = speaks_pharia(request.path)
        response = jsonify(error.envelope(pharia=pharia))
        response.status_code = error.status_for(pharia=pharia)
        request.environ[ERROR] = error.code or error.type
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


def _add_request_log(app: Flask, request_log: RequestLog) -> None:
    @app.before_request
    def start() -> None:
        begin(request.environ)

    @app.after_request
    def finish(response: Response) -> Response:
        environ, rule = request.environ, request.url_rule
        response.headers["x-request-id"] = environ[REQUEST_ID]
        request_log.finish(
            environ,
            route=rule.rule if rule else "unknown",
            status=response.status_code,
            probed=rule is not None and rule.endpoint in _PROBES,
        )
        return response
