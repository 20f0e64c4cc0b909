"""Composition root: settings to objects, the cold-start thread, the exit codes."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import NoReturn

from flask import Flask

from handler.access import Access, read_secret
from handler.app import ModelCard
from handler.app import create_app as build_app
from handler.cold_start import load_model
from handler.errors import StartError
from handler.lifecycle import Lifecycle, State
from handler.logs import where
from handler.service import EmbeddingService, LoadedModel, Rules
from handler.settings import Settings
from handler.weights import model_name

log = logging.getLogger(__name__)

_ANSWER_WAITING_S = 1.0  # how long a dying process waits for its last answers to be written
_WRITE_S = 0.2
_SWITCH_INTERVAL_S = 0.001  # the engine thread must not wait 5 ms for the interpreter behind every HTTP thread


def create_app() -> Flask:
    """Build the application and start loading the model in the background."""
    settings = Settings.from_environment()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    lifecycle: Lifecycle[LoadedModel] = Lifecycle(
        slots=settings.max_concurrent_requests, cold_start_wait_s=settings.cold_start_wait_s
    )
    keys = () if settings.trust_platform_auth else [key.get_secret_value() for key in settings.api_keys]
    access = Access(keys, pending=_needs_secret(settings))
    app = build_app(
        EmbeddingService(lifecycle, _rules(settings)),
        lifecycle,
        access,
        card=ModelCard(
            created=int(time.time()),
            version=settings.model_version,
            description=settings.model_description,
            tags=settings.tags,
            maximum_completion_tokens=settings.maximum_completion_tokens,
        ),
        max_body_bytes=settings.max_body_bytes,
        cors_allow_origins=settings.cors_allow_origins,
    )
    app.extensions["lifecycle"] = lifecycle  # for the gunicorn worker, which has only the application
    threading.Thread(
        target=_cold_start, args=(settings, lifecycle, access, app), name="cold-start", daemon=True
    ).start()
    return app


def _needs_secret(settings: Settings) -> bool:
    return settings.api_keys_secret_id is not None and not settings.trust_platform_auth


def _rules(settings: Settings) -> Rules:
    name = settings.model_name or model_name(settings.model_path)
    return Rules(
        names=(name, *(alias for alias in settings.model_aliases if alias != name)),
        check_model_name=settings.check_model_name,
        max_inputs=settings.max_inputs,
        long_input=settings.long_input,
        allow_token_ids=settings.token_id_input == "allow",  # noqa: S105 - no password
        supported=settings.embedding_task_supported,
        request_timeout_s=settings.request_timeout_s,
    )


def _cold_start(settings: Settings, lifecycle: Lifecycle[LoadedModel], access: Access, app: Flask) -> None:
    deadline = threading.Timer(settings.start_timeout_s, _start_too_long, args=(settings, lifecycle))
    deadline.daemon = True
    deadline.start()
    try:
        if _needs_secret(settings) and settings.api_keys_secret_id is not None:
            access.add(read_secret(settings.api_keys_secret_id, attempts=settings.http_request_retries))
        # vLLM looks at every global of every module, and Flask's `request` raises outside of a request.
        model = load_model(
            settings, lifecycle, build_context=app.test_request_context, on_death=lambda: _engine_died(lifecycle)
        )
    except StartError as exc:
        _stop_failed_start(lifecycle, str(exc))
    except BaseException as exc:  # noqa: BLE001 - whatever it is, a start that hangs is worse than one that ends
        _stop_failed_start(lifecycle, f"{type(exc).__name__}: {exc} ({where(exc)})")
    deadline.cancel()
    lifecycle.ready(model)
    if access.is_open and not settings.trust_platform_auth:
        log.warning("open", extra={"reason": "no EMBED_API_KEYS: everybody who reaches this port may embed"})
    _tell_ready(settings, lifecycle, model)


def _tell_ready(settings: Settings, lifecycle: Lifecycle[LoadedModel], model: LoadedModel) -> None:
    url = f"http://localhost:{settings.port}/v1"
    name = _rules(settings).names[0]
    log.info(
        "ready",
        extra={
            "url": url,
            "model": name,
            "dimensions": model.dimensions,
            "max_tokens": model.max_tokens,
            "start_s": lifecycle.phases["total"],
            "phases_s": lifecycle.phases,
        },
    )
    if settings.log_format == "text":
        key = "" if not settings.api_keys else ' -H "Authorization: Bearer $KEY"'
        body = '{"input": "Input text to be embedded"}'
        log.info("try: curl %s/embeddings%s -H 'Content-Type: application/json' -d '%s'", url, key, body)


def _start_too_long(settings: Settings, lifecycle: Lifecycle[LoadedModel]) -> None:
    done = ", ".join(f"{name} {seconds} s" for name, seconds in lifecycle.phases.items()) or "nothing"
    message = f"not ready after EMBED_START_TIMEOUT_S={settings.start_timeout_s:g}; finished so far: {done}"
    _stop_failed_start(lifecycle, message)


def _stop_failed_start(lifecycle: Lifecycle[LoadedModel], reason: str) -> NoReturn:
    if lifecycle.state is State.DRAINING:  # told to stop while loading: the process is ending already
        _exit(0)
    lifecycle.fail()
    for line in reason.splitlines():
        log.error("start_failed", extra={"reason": line})
    _exit(StartError.exit_code)


def _engine_died(lifecycle: Lifecycle[LoadedModel]) -> None:
    """End the process: waiting requests have been failed already, their answers need a moment to be written."""
    lifecycle.fail()
    lifecycle.wait_idle(_ANSWER_WAITING_S)
    time.sleep(_WRITE_S)
    _exit(1)


def _exit(code: int) -> NoReturn:
    logging.shutdown()
    os._exit(code)
