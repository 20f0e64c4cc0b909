"""gunicorn's settings: one worker process with one engine in it.

Read by gunicorn in its master process, before the worker is forked and before anything heavy is imported.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
from logging.config import dictConfig
from pathlib import Path
from typing import TYPE_CHECKING

from gunicorn.errors import HaltServer

from handler.errors import StartError
from handler.logs import leave_out_callers, logging_config, take_over
from handler.ports import bound
from handler.settings import Settings, prepare_process, wanted_log_format
from handler.worker import SPARE_THREADS

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.workers.base import Worker


try:
    _settings = Settings.from_environment()
    bound(_settings.port, "PORT").close()  # gunicorn would try for seconds and then name no setting
except StartError as problem:  # gunicorn has not set up its log yet; alarms look for this event
    dictConfig(logging_config(level="ERROR", log_format=wanted_log_format()))
    for line in str(problem).splitlines():
        logging.getLogger(__name__).error("start_failed", extra={"reason": line})  # noqa: TRY400 - a trace tells nothing more
    sys.exit(StartError.exit_code)
_cache_problem = prepare_process(_settings)
leave_out_callers()
take_over()

bind = f"0.0.0.0:{_settings.port}"
workers = 1  # one engine per container; the platform clones containers
worker_class = "handler.worker.EmbeddingWorker"
logger_class = "handler.worker.ErrorLogger"
threads = _settings.max_concurrent_requests + SPARE_THREADS
worker_connections = 2048
preload_app = False  # CUDA must not be touched before the fork
max_requests = 0  # a restart would be a cold start
timeout = 0  # the start has its own deadline, requests have theirs
graceful_timeout = math.ceil(_settings.drain_timeout_s) + 2  # the worker stops by itself before that
# No headers say what scheme or path a request had, those from 127.0.0.1 neither: a sidecar there hands on its clients'.
# With nothing left to trust, nobody's address need be looked up.
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
forwarded_allow_ips = "*"
keepalive = 620  # above the idle time of load balancers, the longest of which is 600 s
backlog = 2048
control_socket_disable = True  # its file would need a writable disk
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) and Path("/dev/shm").is_dir() else None  # noqa: S108
logconfig_dict = logging_config(
    level=_settings.log_level,
    log_format=_settings.log_format,
    service=_settings.service_name,
    role=_settings.service_role,
    **({"tags": list(_settings.tags)} if _settings.tags else {}),
)


def on_starting(server: Arbiter) -> None:  # noqa: ARG001 - gunicorn's signature
    """Tell what happened before there was a log."""
    if _cache_problem is not None:
        logging.getLogger("handler.caches").warning("cache_elsewhere", extra={"reason": _cache_problem})


def when_ready(server: Arbiter) -> None:  # noqa: ARG001 - gunicorn's signature
    """Ignore what would start a second engine beside the first, or end the first to start another."""
    for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def child_exit(server: Arbiter, worker: Worker) -> None:
    """End the container when its worker ends: gunicorn would start another, and a crash while loading would loop."""
    if server.LISTENERS:  # the master empties this list when it stops the worker itself
        raise HaltServer(f"worker {worker.pid} has died", 1)  # noqa: EM102 - gunicorn's own exception


def worker_exit(server: Arbiter, worker: Worker) -> None:  # noqa: ARG001 - gunicorn's signature
    """Leave without Python's finalisation, which would wait for threads that never end."""
    error = sys.exc_info()[1]
    logging.shutdown()
    os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 0)
