from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from handler import wsgi
from handler.lifecycle import Lifecycle


class ExitedError(BaseException):
    """The process would have ended."""


def process(monkeypatch: pytest.MonkeyPatch, *, exits: list[int]) -> Any:
    """Make a process that notes what it ends with, and whose last figures cannot be written."""

    def end(code: int) -> None:
        exits.append(code)
        raise ExitedError

    def ended(_how: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wsgi, "_exit", end)
    monkeypatch.setattr(wsgi, "_WRITE_S", 0)
    own: dict[str, Any] = dict.fromkeys(("settings", "access", "metrics", "app", "lull"))
    own["telemetry"] = SimpleNamespace(ended=ended)
    return wsgi._Process(lifecycle=Lifecycle(slots=1), **own)  # noqa: SLF001


def test_a_failed_start_ends_whatever_telemetry_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk may be why it failed."""
    exits: list[int] = []
    with pytest.raises(ExitedError):
        process(monkeypatch, exits=exits)._stop_failed_start("no model")  # noqa: SLF001
    assert exits == [3]


def test_an_engine_that_dies_ends_the_process_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the warm-up, which ends the start itself."""
    exits: list[int] = []
    dying = process(monkeypatch, exits=exits)
    dying._engine_died()  # noqa: SLF001
    assert exits == []
    dying.lifecycle.ready(SimpleNamespace())
    with pytest.raises(ExitedError):
        dying._engine_died()  # noqa: SLF001
    assert exits == [1]
