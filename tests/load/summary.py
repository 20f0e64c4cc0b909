"""What a load test showed, from its recorded seconds, as Markdown. Pure, and without locust."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from tests.load.options import Options
from tests.load.record import Figures, Second, figures, tally

_BUSY = 0.9  # of a core; one Python process cannot give more


@dataclass(frozen=True, slots=True)
class Summary:
    """Lines of Markdown, and what was not as it must be."""

    lines: list[str]
    problems: list[str]

    def __str__(self) -> str:
        """Write it down."""
        verdict = [f"- **{problem}**" for problem in self.problems] or ["- **nothing was wrong**"]
        return "\n".join([*self.lines, *verdict, ""])


def quantile(ordered: list[int], share: float) -> int | None:
    """Return the least of *ordered* that *share* of them do not exceed; None of none."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None


def phases(seconds: list[Second], *, settle_s: float) -> list[Figures]:
    """Sum up each phase, in order."""
    names = dict.fromkeys(second.phase for second in seconds if second.phase not in ("approach", "end"))
    return [figures(seconds, name, settle_s=settle_s) for name in names]


def _pair(ordered: list[int]) -> str:
    p50, p99 = quantile(ordered, 0.5), quantile(ordered, 0.99)
    return "-" if p50 is None else f"{p50} / {p99}"


def _row(phase: Figures) -> str:
    cells = [phase.phase, f"{phase.users}", f"{phase.offered:.0f}", f"{phase.answered:.0f}"]
    cells += [_pair(phase.search_ms), _pair(phase.batch_ms), f"{phase.refused}", f"{phase.unavailable}"]
    return "| " + " | ".join([*cells, f"{phase.cpu:.2f}"]) + " |"


def _table(measured: list[Figures]) -> list[str]:
    head = "| phase | users | offered, texts/s | answered, texts/s | one text, p50 / p99 ms | batch, p50 / p99 ms "
    return [head + "| 429 | 503 | driver's CPU |", "|---|---|---|---|---|---|---|---|---|", *map(_row, measured), ""]


def progress(seconds: list[Second], phase: str, *, settle_s: float) -> str:
    """Tell in one line how a phase went."""
    now = figures(seconds, phase, settle_s=settle_s)
    counts = f"{now.offered:.0f} texts/s offered, {now.answered:.0f} answered, {now.refused} times 429"
    return f"{phase}: {now.users} users, {counts}"


def summarise(seconds: list[Second], options: Options) -> Summary:
    """Judge a whole load test."""
    measured = phases(seconds, settle_s=options.settle_s)
    lines, problems = _table(measured), []
    for judge in (_rate, _past_saturation) if options.shape == "ramp" else (_endurance,):
        said, wrong = judge(measured, options)
        lines += said
        problems += wrong
    for count in (_refusals, _bad_clients, _surprises):
        said, wrong = count(seconds)
        lines += said
        problems += wrong
    lines += _driver(measured, options)
    return Summary(lines, problems)


def _judged(phase: Figures) -> list[int]:
    """Return the latencies that the limit is for: of one text, else of batches."""
    return phase.search_ms or phase.batch_ms


def _rate(measured: list[Figures], options: Options) -> tuple[list[str], list[str]]:
    limit = f"p99 of {'one text' if any(phase.search_ms for phase in measured) else 'a batch'} ≤ {options.p99_ms:g} ms"
    good = [
        phase
        for phase in measured
        if phase.phase != "overload" and (quantile(_judged(phase), 0.99) or math.inf) <= options.p99_ms
    ]
    if not good:
        return [f"- Highest rate with {limit}: none; the lightest step was above it"], []
    best = max(good, key=lambda phase: phase.answered)
    sample = f"{quantile(_judged(best), 0.99)} ms over {len(_judged(best))} requests, {best.users} users"
    return [f"- Highest rate with {limit}: {best.answered:.0f} texts/s ({sample})"], []


def _past_saturation(measured: list[Figures], options: Options) -> tuple[list[str], list[str]]:
    named = {phase.phase: phase for phase in measured}
    if "peak" not in named or "overload" not in named or not named["peak"].answered:
        return [], ["the run ended before the overload"]
    peak, overload = named["peak"], named["overload"]
    factor, share = overload.offered / peak.answered, overload.answered / peak.answered
    past = f"{overload.offered:.0f} texts/s, refused ones included, {overload.users} users, {overload.seconds:.0f} s"
    back = (
        f"{overload.answered:.0f} texts/s answered: {share:.0%} of the peak, at least {options.min_goodput:.0%} wanted"
    )
    lines = [
        f"- Peak: {peak.answered:.0f} texts/s, {peak.users} users, {peak.seconds:.0f} s",
        f"- Past it: {factor:.1f} times the peak offered ({past}), {back}",
    ]
    problems = []
    best = max((phase for phase in measured if phase is not overload), key=lambda phase: phase.answered)
    if peak.answered < best.answered * options.min_goodput:  # else a server that stays slow after the ramp would pass
        held = f"{best.answered:.0f} texts/s of {best.phase} were not held: {peak.answered:.0f}"
        problems.append(f"{held}; the machine is not quiet, or the server slows down")
    if round(factor, 1) < options.min_overload:
        wanted = f"not {options.min_overload:g} times: more users, or a faster driver"
        problems.append(f"only {factor:.1f} times the peak was offered, {wanted}")
    if share < options.min_goodput:
        problems.append(f"past saturation {share:.0%} of the peak came back, less than {options.min_goodput:.0%}")
    return lines, problems


def _endurance(measured: list[Figures], options: Options) -> tuple[list[str], list[str]]:
    if len(measured) != 4 or not measured[0].answered:
        return [], ["the soak did not reach its end"]
    share = measured[-1].answered / measured[0].answered
    total = sum(phase.seconds for phase in measured)
    line = f"- Soak of {total:.0f} s: the last quarter answered {share:.0%} of what the first did"
    return [line], [f"throughput fell to {share:.0%}"] if share < options.min_goodput else []


def _refusals(seconds: list[Second]) -> tuple[list[str], list[str]]:
    refused = sum(second.refused for second in seconds)
    unavailable = sum(second.unavailable for second in seconds)
    if not refused + unavailable:
        return ["- Nothing was refused"], []
    waits = ", ".join(f"{value} s" for value in sorted(tally(seconds, "waits_s"), key=int))
    again, answered = sum(second.retries for second in seconds), sum(second.retries_answered for second in seconds)
    told = f"- Refused: {refused} times 429, {unavailable} times 503, each with Retry-After ({waits})"
    return [f"{told}; of {again} that came again after that time {answered} were answered"], []


def _bad_clients(seconds: list[Second]) -> tuple[list[str], list[str]]:
    bad, as_expected = sum(second.bad for second in seconds), sum(second.bad_as_expected for second in seconds)
    return [f"- Bad clients: {as_expected} of {bad} requests met as they should be"] if bad else [], []


def _surprises(seconds: list[Second]) -> tuple[list[str], list[str]]:
    problems = [f"{what}: {count} times" for what, count in sorted(tally(seconds, "unexpected").items())]
    lost = sum(second.offered_requests - second.finished_requests for second in seconds)
    if lost:
        problems.append(f"{lost} requests were never finished")
    if not any(second.answered_requests for second in seconds):
        problems.append("nothing was answered")
    return [], problems


def _driver(measured: list[Figures], options: Options) -> list[str]:
    if not measured:
        return []
    most = max(measured, key=lambda phase: phase.cpu)
    seconds = sum(phase.seconds for phase in measured) or 1.0
    mean = sum(phase.cpu * phase.seconds for phase in measured) / seconds
    local = any(name in options.url for name in ("//127.", "//localhost", "//[::1]"))
    where = f" of the {os.cpu_count()} that it shares with the server" if local else ""
    note = "; a driver this busy is slow itself, so the figures are lower bounds" if most.cpu > _BUSY else ""
    return [f"- The load driver used {mean:.2f} cores{where}, {most.cpu:.2f} in {most.phase}{note}"]
