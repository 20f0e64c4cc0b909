from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.load.options import Options
from tests.load.record import Second, outcome, since
from tests.load.shapes import Ramp, Soak
from tests.load.summary import quantile, summarise

OPTIONS = Options(step_s=3, hold_s=6)
QUIET = Second(duration_s=1, offered_texts=100, answered_texts=100, offered_requests=10, finished_requests=10)
WELL = replace(QUIET, answered_requests=10, search_ms=[20] * 10, cpu=0.1)


def phase(name: str, count: int = 6, **changes: Any) -> list[Second]:
    """Make the seconds of one phase."""
    return [replace(WELL, phase=name, users=5, **changes) for _ in range(count)]


def run(**overload: Any) -> list[Second]:
    """Make a whole ramp; *overload* says what differs in its last phase."""
    past: dict[str, Any] = {"offered_texts": 310, "answered_texts": 95, "offered_requests": 30, "finished_requests": 30}
    past |= {"refused": 20, "waits_s": {"1": 20}, "retries": 15, "retries_answered": 5, "search_ms": [900] * 10}
    slow = phase("ramp 2", answered_texts=110, offered_texts=110, search_ms=[20] * 9 + [700])
    return [*phase("ramp 1"), *slow, *phase("peak"), *phase("overload", **{**past, **overload})]


def test_a_good_run_says_rate_peak_and_overload() -> None:
    """Every number comes from the recorded seconds."""
    summary = summarise(run(), OPTIONS)
    assert summary.problems == []
    text = str(summary)
    assert "| ramp 2 | 5 | 110 | 110 | 20 / 700 | - | 0 | 0 | 0.10 |" in text
    assert "- Highest rate with p99 of one text ≤ 500 ms: 100 texts/s (20 ms over 50 requests, 5 users)" in text
    assert "- Peak: 100 texts/s, 5 users, 5 s" in text
    assert "3.1 times the peak offered (310 texts/s, refused ones included" in text
    assert "95% of the peak, at least 90% wanted" in text
    assert "120 times 429, 0 times 503, each with Retry-After (1 s); of 90 that came again after that time 30" in text
    assert "- The load driver used 0.10 cores of the " in text
    assert text.endswith("- **nothing was wrong**\n")


@pytest.mark.parametrize(
    ("overload", "problem"),
    [
        ({"answered_texts": 80}, "past saturation 80% of the peak came back, less than 90%"),
        ({"offered_texts": 200}, "only 2.0 times the peak was offered, not 3 times: more users, or a faster driver"),
        ({"unexpected": {"500": 1}}, "500: 6 times"),
        ({"unexpected": {"429 without Retry-After": 2}}, "429 without Retry-After: 12 times"),
        ({"finished_requests": 29}, "6 requests were never finished"),
    ],
)
def test_what_is_wrong_is_said(overload: dict[str, Any], problem: str) -> None:
    """Each of these makes the run fail."""
    summary = summarise(run(**overload), OPTIONS)
    assert summary.problems == [problem]
    assert f"- **{problem}**" in str(summary)


def test_a_run_that_was_cut_short_fails() -> None:
    """Without an overload there is no verdict."""
    assert summarise(phase("ramp 1"), OPTIONS).problems == ["the run ended before the overload"]
    assert summarise([], OPTIONS).problems == ["the run ended before the overload", "nothing was answered"]


def test_a_limit_that_no_step_keeps_is_said() -> None:
    """And is not a failure: the limit is the user's question."""
    summary = summarise(run(), replace(OPTIONS, p99_ms=10))
    assert "≤ 10 ms: none; the lightest step was above it" in str(summary)
    assert summary.problems == []


def test_a_busy_driver_is_said() -> None:
    """The figures are worth less then."""
    text = str(summarise(run(cpu=0.95), OPTIONS))
    assert "0.95 in overload; a driver this busy is slow itself" in text


def test_a_peak_that_does_not_last_fails() -> None:
    """A server that never recovers from the ramp would otherwise be compared with its own slowness."""
    problems = summarise([*phase("ramp 0", answered_texts=150), *run()], OPTIONS).problems
    assert problems == ["150 texts/s of ramp 0 were not held: 100; the machine is not quiet, or the server slows down"]


def test_a_soak_compares_its_quarters() -> None:
    """A server that slows down fails."""
    soak = replace(OPTIONS, shape="soak")
    quarters = [second for number in range(1, 4) for second in phase(f"soak {number}/4")]
    assert summarise([*quarters, *phase("soak 4/4")], soak).problems == []
    assert summarise([*quarters, *phase("soak 4/4", answered_texts=70)], soak).problems == ["throughput fell to 70%"]
    assert summarise(quarters, soak).problems == ["the soak did not reach its end"]


@pytest.mark.parametrize(
    ("status", "retry_after", "got", "what"),
    [
        (200, "", 2, "answered"),
        (200, "", 1, "200 without all of its embeddings"),
        (429, "1", 0, "refused"),
        (429, "", 0, "429 without Retry-After"),
        (503, "5", 0, "unavailable"),
        (503, "soon", 0, "503 without Retry-After"),
        (500, "", 0, "500"),
        (0, "", 0, "no answer"),
    ],
)
def test_outcomes(status: int, retry_after: str, got: int, what: str) -> None:
    """What each answer to two texts counts as."""
    assert outcome(status, retry_after=retry_after, wanted=2, got=got) == what


def test_quantiles_are_values_that_were_seen() -> None:
    """The nearest rank above."""
    assert quantile([], 0.99) is None
    assert quantile([7], 0.5) == 7
    assert quantile(list(range(1, 101)), 0.99) == 99


def play(
    plan: Ramp | Soak, *, capacity: float, slots: int, refusing: bool, lag_s: int = 0, again: int = 0
) -> list[Second]:
    """Let *plan* drive a server that takes *capacity* texts/s from users who each offer 10.

    Those who are added begin after *lag_s*, as long as an answer takes; each text that finds no slot is offered *again*
    as often.
    """
    seconds: list[Second] = []
    while plan.phase and len(seconds) < 2000:
        users = seconds[-lag_s].users if 0 < lag_s <= len(seconds) else plan.users
        answered = min(users * 10, capacity)
        full = refusing and users > slots
        asked = users * 10 + (again * max(0, users - slots) * 10 if full else 0)
        seconds.append(
            Second(
                phase=plan.phase,
                duration_s=1,
                users=plan.users,
                offered_texts=asked if full else int(answered),
                answered_texts=int(answered),
                answered_requests=int(answered),
                refused=asked - int(answered) if full else 0,
                batch_ms=[1000 * lag_s] * 10,
            )
        )
        plan.advance(seconds)
    return seconds


def test_the_ramp_ends_in_three_times_the_peak() -> None:
    """It stops a little past saturation, measures the peak, and adds users until the overload is there."""
    plan = Ramp(OPTIONS)
    seconds = play(plan, capacity=300, slots=64, refusing=True)
    assert plan.phase is None
    peak = [second for second in seconds if second.phase == "peak"]
    past = [second for second in seconds if second.phase == "overload"]
    assert {second.answered_texts for second in peak} == {300}
    assert len(peak) >= 6 <= len(past)
    assert sum(second.offered_texts for second in past) / len(past) >= 900
    assert max(second.users for second in seconds if second.phase.startswith("ramp")) < 300


def test_users_are_added_no_faster_than_they_show() -> None:
    """Where an answer takes seconds and the refused come again, not six times the peak is offered."""
    plan = Ramp(replace(OPTIONS, step_s=20, hold_s=20))
    seconds = play(plan, capacity=300, slots=64, refusing=True, lag_s=5, again=2)
    assert plan.phase is None
    past = since([second for second in seconds if second.phase == "overload"], 5)
    assert 3 <= sum(second.offered_texts for second in past) / len(past) / 300 <= 4


def test_the_ramp_ends_where_nothing_is_refused() -> None:
    """A server that queues without bound cannot be offered three times its peak; the users are bounded."""
    plan = Ramp(OPTIONS)
    seconds = play(plan, capacity=300, slots=64, refusing=False)
    assert plan.phase is None
    assert max(second.users for second in seconds) == OPTIONS.max_users
    assert any("times the peak was offered" in problem for problem in summarise(seconds, OPTIONS).problems)


def test_the_soak_keeps_its_users() -> None:
    """For as long as it was told."""
    plan = Soak(replace(OPTIONS, soak_s=40))
    seconds = play(plan, capacity=300, slots=64, refusing=True)
    assert {second.users for second in seconds} == {10}
    assert [second.phase for second in seconds] == [f"soak {1 + index // 10}/4" for index in range(40)]
