"""Composition root: settings to objects, the cold-start thread, the exit codes."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from flask import Flask

from handler import __version__
from handler.access import Access
from handler.allocator import keep_freed_memory
from handler.app import create_app as build_app
from handler.cold_start import load_model
from handler.errors import StartError
from handler.lifecycle import Lifecycle, State
from handler.listings import ModelCard
from handler.logs import where
from handler.metrics import Metrics
from handler.ports import open_tcp_probes, serve_metrics
from handler.secret_keys import SecretKeys
from handler.service import EmbeddingService, LoadedModel, Rules
from handler.settings import Settings
from handler.strands import Lull
from handler.telemetry import Telemetry, build_telemetry
from handler.weights import model_name

log = logging.getLogger(__name__)

_ANSWER_WAITING_S = 1.0  # how long a dying process waits for its last answers to be written
_WRITE_S = 0.2
_SWITCH_INTERVAL_S = 0.001  # the engine thread must not wait 5 ms for the interpreter behind every HTTP thread


def create_app() -> Flask:
    """Build the application and start loading the model in the background."""
    settings = Settings.from_environment()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    keep_freed_memory()
    lifecycle: Lifecycle[LoadedModel] = Lifecycle(
        slots=settings.max_concurrent_requests, cold_start_wait_s=settings.cold_start_wait_s
    )
    keys = () if settings.trust_platform_auth else [key.get_secret_value() for key in settings.api_keys]
    access = Access(keys, pending=_needs_secret(settings))
    metrics = Metrics(
        slots=settings.max_concurrent_requests,
        in_flight=lambda: lifecycle.in_flight,
        is_ready=lambda: lifecycle.state is State.READY,
        engine=lambda: lifecycle.model.engine if lifecycle.model else None,
    )
    telemetry = build_telemetry(settings, model=_rules(settings).names[0], in_flight=lambda: lifecycle.in_flight)
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
        metrics=metrics,
        max_body_bytes=settings.max_body_bytes,
        cors_allow_origins=settings.cors_allow_origins,
        pages_need_key=settings.pages_need_key,
        watches=telemetry.watches,
    )
    app.extensions["lifecycle"] = lifecycle  # for the gunicorn worker, which has only the application
    app.extensions["refused"] = partial(_refused, metrics, telemetry)
    app.extensions["lull"] = lull = Lull()
    app.extensions["on_stop"] = (telemetry.close,)
    process = _Process(settings, lifecycle, access, metrics, telemetry, app, lull)
    threading.Thread(target=process.cold_start, name="cold-start", daemon=True).start()
    return app


def _refused(metrics: Metrics, telemetry: Telemetry, *, route: str, status: int, reason: str) -> None:
    """Count what the worker has answered by itself."""
    metrics.refused(route=route, status=status, reason=reason)
    telemetry.refused(status=status)


def _needs_secret(settings: Settings) -> bool:
    return settings.api_keys_secret_id is not None and not settings.trust_platform_auth


def _rules(settings: Settings) -> Rules:
    name = settings.model_name or model_name(settings.model_path)
    return Rules(
        names=tuple(dict.fromkeys((name, *settings.model_aliases))),  # each once
        check_model_name=settings.check_model_name,
        max_inputs=settings.max_inputs,
        long_input=settings.long_input,
        allow_token_ids=settings.token_id_input == "allow",  # noqa: S105 - no password
        supported=settings.embedding_task_supported,
        request_timeout_s=settings.request_timeout_s,
    )


@dataclass(frozen=True, slots=True)
class _Process:
    """Everything that the start of this process needs to bring together."""

    settings: Settings
    lifecycle: Lifecycle[LoadedModel]
    access: Access
    metrics: Metrics
    telemetry: Telemetry
    app: Flask
    lull: Lull

    def cold_start(self) -> None:
        """Load the model, then open; every failure ends the process with one line."""
        deadline = threading.Timer(self.settings.start_timeout_s, self._took_too_long)
        deadline.daemon = True
        deadline.start()
        try:
            self._open_ports()
            self._read_keys()
            # vLLM looks at every global of every module, and Flask's `request` raises outside of a request.
            model = load_model(
                self.settings,
                self.lifecycle,
                build_context=self.app.test_request_context,
                on_death=self._engine_died,
                lull=self.lull,
            )
        except StartError as exc:
            self._stop_failed_start(str(exc))
        except BaseException as exc:  # noqa: BLE001 - whatever it is, a start that hangs is worse than one that ends
            self._stop_failed_start(f"{type(exc).__name__}: {exc} ({where(exc)})")
        deadline.cancel()
        self.lifecycle.ready(model)
        self._tell_ready(model)

    def _open_ports(self) -> None:
        open_tcp_probes(self.settings.tcp_probes, self.lifecycle)
        if self.settings.metrics_port is not None:
            serve_metrics(self.settings.metrics_port, self.metrics.registry)

    def _read_keys(self) -> None:
        secret = self.settings.api_keys_secret_id
        if secret is not None and _needs_secret(self.settings):
            keys = SecretKeys(secret, attempts=self.settings.http_request_retries)
            self.access.use_secret(keys.read())
            if self.settings.api_keys_refresh_s:
                keys.keep_fresh(self.access, self.settings.api_keys_refresh_s)

    def _tell_ready(self, model: LoadedModel) -> None:
        settings, phases = self.settings, self.lifecycle.phases
        if self.access.is_open and not settings.trust_platform_auth:
            log.warning("open", extra={"reason": "no EMBED_API_KEYS: everybody who reaches this port may embed"})
        name = _rules(settings).names[0]
        told = {"name": name, "model_version": settings.model_version, "dtype": model.dtype, "version": __version__}
        told |= {"architecture": model.architecture, "pooling": model.pooling}
        told |= {"dimensions": str(model.dimensions), "max_tokens": str(model.max_tokens)}
        who = {"service": settings.service_name, "role": settings.service_role, "tags": ",".join(settings.tags)}
        self.telemetry.started(phases["total"])
        self.metrics.started(phases_s=phases, model=told | who)
        url = f"http://localhost:{settings.port}/v1"
        size = {"dimensions": model.dimensions, "max_tokens": model.max_tokens}
        log.info("ready", extra={"url": url, "model": name, **size, "start_s": phases["total"], "phases_s": phases})
        if settings.log_format == "text":
            key = " -H 'Authorization: Bearer KEY'" if not self.access.is_open else ""
            body = '{"input": "Input text to be embedded"}'
            log.info("try: curl %s/embeddings%s -H 'Content-Type: application/json' -d '%s'", url, key, body)

    def _took_too_long(self) -> None:
        done = ", ".join(f"{name} {seconds} s" for name, seconds in self.lifecycle.phases.items()) or "nothing"
        limit = self.settings.start_timeout_s
        self._stop_failed_start(f"not ready after EMBED_START_TIMEOUT_S={limit:g}; finished so far: {done}")

    def _stop_failed_start(self, reason: str) -> NoReturn:
        if self.lifecycle.state is State.DRAINING:  # told to stop while loading: the process is ending already
            _exit(0)
        self.lifecycle.fail()
        for line in reason.splitlines():
            log.error("start_failed", extra={"reason": line})
        try:
            self.telemetry.ended("StartFailures")
        finally:  # a full disk may be why the start failed
            _exit(StartError.exit_code)

    def _engine_died(self) -> None:
        """End the process: waiting requests have been failed already, their answers need a moment to be written."""
        if self.lifecycle.model is None:  # in the warm-up, which ends the start with the reason
            return
        self.lifecycle.fail()
        self.lifecycle.wait_idle(_ANSWER_WAITING_S)
        time.sleep(_WRITE_S)
        try:
            self.telemetry.ended("EngineDeaths")
        finally:
            _exit(1)


def _exit(code: int) -> NoReturn:
    logging.shutdown()
    os._exit(code)
