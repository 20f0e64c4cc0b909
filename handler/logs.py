"""Log lines: an event name and fields, as JSON for machines or as text for people at a terminal."""

from __future__ import annotations

import logging
import os
import threading
import traceback
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.orjson import OrjsonFormatter

# Third parties are heard only from this level on, unless LOG_LEVEL is DEBUG. vLLM warns of each of its own choices.
_QUIET = {"vllm": "ERROR", "transformers": "ERROR", "urllib3": "WARNING", "torch._library.triton": "ERROR"}
# These not even then: they log what AWS answers, the content of secrets included, and headers that they cannot read.
_TALKATIVE = {"botocore": "WARNING", "boto3": "WARNING", "opentelemetry.trace": "ERROR"}


# The id of the request that this thread works on, None between two.
current_request: ContextVar[str | None] = ContextVar("current_request", default=None)


def new_request_id() -> str:
    """Make an id for a request that brought none."""
    return f"req-{os.urandom(16).hex()}"


class RequestIdFilter(logging.Filter):
    """Puts the request's id into every line that is written while one is worked on, third parties' included."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the id, keep the line."""
        request_id = current_request.get()
        if request_id is not None and not hasattr(record, "request_id"):
            record.request_id = request_id
        return True


class EventJsonFormatter(OrjsonFormatter):
    """One JSON object per line: time (UTC, ISO 8601), level, event, then the fields."""

    def __init__(self, **static_fields: object) -> None:
        """Add *static_fields* to every line."""
        super().__init__(
            "{levelname}{name}{message}",
            style="{",
            rename_fields={"levelname": "level", "name": "logger", "message": "event"},
            static_fields=static_fields,
            timestamp="time",
        )


class EventTextFormatter(logging.Formatter):
    """`12:00:01 INFO event field=value ...`."""

    def __init__(self, **_static_fields: object) -> None:
        """Leave out what is the same on every line."""
        super().__init__("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Append the fields to the event."""
        line = super().format(record)
        extra = {name: value for name, value in vars(record).items() if name not in RESERVED_ATTRS}
        return line + "".join(f" {name}={_flat(value)}" for name, value in extra.items())


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}:{number}" for name, number in value.items())
    return str(value)


def logging_config(*, level: str, log_format: str, **static_fields: object) -> dict[str, Any]:
    """Return the `logging.config.dictConfig` for every logger of the process, gunicorn's and vLLM's included."""
    formatter = EventJsonFormatter if log_format == "json" else EventTextFormatter
    quiet = _TALKATIVE if level == "DEBUG" else _QUIET | _TALKATIVE
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"event": {"()": formatter, **static_fields}},
        "filters": {"request_id": {"()": RequestIdFilter}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "event",
                "filters": ["request_id"],
                "stream": "ext://sys.stderr",
            }
        },
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"level": "WARNING", "handlers": [], "propagate": True},
            "gunicorn.access": {"level": "WARNING", "handlers": [], "propagate": True},
            **{name: {"level": quiet_level} for name, quiet_level in quiet.items()},
        },
    }


def leave_out_callers() -> None:
    """Look up nothing for a line that no formatter here writes: not the file, the thread or the process it comes from.

    Source: "Optimization" in the logging how-to of Python's documentation.
    """
    logging._srcfile = None  # noqa: SLF001 - the way that page shows
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def take_over() -> None:
    """Make log lines of what Python writes to stderr by itself: warnings, and what ends a thread."""
    logging.captureWarnings(capture=True)
    threading.excepthook = _tell_uncaught


def _tell_uncaught(args: threading.ExceptHookArgs) -> None:
    """Tell the kind and the place only: a message may quote a client's text."""
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = args.thread.name if args.thread else "unknown"
        reason = f"{args.exc_type.__name__} ({where(args.exc_value)})"
        logging.getLogger(__name__).error("thread_died", extra={"who": name, "reason": reason})


def drop_own_handlers(library: str) -> None:
    """Let the lines of a *library* that has been imported come through the root's handler, and no other."""
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == library]:
        logger = logging.getLogger(name)
        for handler in [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]:
            logger.removeHandler(handler)
            logger.propagate = True


def where(exc: BaseException) -> str:
    """Say where *exc* came from, without its message, which may quote a client's text."""
    frames = traceback.extract_tb(exc.__traceback__)[-3:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
