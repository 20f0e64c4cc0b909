"""The terms that the Lambda template's alarm listens for, in what the real server writes when it cannot go on."""

from __future__ import annotations

import json
import signal

from tests.infra.files import TEMPLATE, alarm_terms, read
from tests.server import Server, wait_for

TERMS = alarm_terms(read(TEMPLATE))


def heard(server: Server) -> list[str]:
    """The log lines that the alarm counts; each is one JSON object, as Lambda's log wants them."""
    lines = [line for line in server.log().splitlines() if any(term in line for term in TERMS)]
    return [json.loads(line)["event"] for line in lines]


def test_a_bad_setting_is_heard() -> None:
    """One line per problem, in the one format that the log has."""
    with Server(EMBED_MAX_INPUTS="none", EMBED_TYPO="1") as server:
        assert server.wait_exit(30) == 3
        assert heard(server) == ["start_failed", "start_failed"]
        reasons = [event["reason"] for event in server.events("start_failed")]
        assert len(server.log().splitlines()) == 2
    assert reasons[0].startswith("EMBED_TYPO: no such setting")
    assert reasons[1].startswith("EMBED_MAX_INPUTS: Input should be a valid integer")


def test_a_bad_setting_can_be_read_at_a_terminal() -> None:
    """As text, where text is asked for."""
    with Server(EMBED_MAX_INPUTS="none", EMBED_LOG_FORMAT="text") as server:
        assert server.wait_exit(30) == 3
        (line,) = server.log().splitlines()
    assert "ERROR start_failed reason=EMBED_MAX_INPUTS: Input should be a valid integer" in line


def test_a_model_that_is_missing_is_heard() -> None:
    """Once."""
    with Server(EMBED_MODEL_PATH="/nowhere") as server:
        assert server.wait_exit(60) == 3
        assert heard(server) == ["start_failed"]


def test_a_worker_killed_for_memory_is_heard() -> None:
    """The kernel leaves no line of the worker's own; the master's says it."""
    with Server() as server:
        wait_for(lambda: server.events("loading"))
        server.worker().send_signal(signal.SIGKILL)
        assert server.wait_exit(30) == 1
        (event,) = heard(server)
    assert event.endswith("has died")


def test_what_is_no_failure_is_not_heard() -> None:
    """Stopping while it loads, as a platform does that needs the container no longer."""
    with Server() as server:
        wait_for(lambda: server.events("loading"))
        server.terminate()
        assert server.wait_exit(30) == 0
        assert heard(server) == []
