"""How many users there are, decided each second from what was measured so far. Pure; locust is told elsewhere."""

from __future__ import annotations

import math

from tests.load.options import OVERLOAD, Options
from tests.load.record import Figures, Second, figures, since

_GROWTH = 1.5  # users from step to step
_GAIN = 1.05  # a step that brings less does not count as progress
_PATIENCE = 4  # steps without progress that end the ramp: five times the users bring nothing
_PATIENCE_REFUSED = 2  # likewise, where the server itself says that it is full
_FULL = 0.05  # share of requests that are refused by a server that is full
_LOOK_S = 3.0  # what the offered load is judged by while users are added, once they have shown what they do
_AIM = 1.1  # a little above the overload that is wanted, which wavers
_MOST = 1.3  # times the users at once
_RETRY_S = 1.0  # after which those who are refused come again


class Ramp:
    """More users step by step until no more texts come back; then the best step again, longer; then the overload.

    Users ask again only after an answer, so the overload is reached by adding users until what they offer, refused
    requests included, is three times what came back at the peak.
    """

    def __init__(self, options: Options) -> None:
        """Begin with the first step."""
        self.phase: str | None = "ramp 1"
        self.users = options.users
        self._options = options
        self._steps: list[Figures] = []
        self._peak = 0.0  # texts/s
        self._lag_s = 0.0  # until users who were added offer what they will
        self._grown_at = 0  # index of the second after which users were last added

    def advance(self, seconds: list[Second]) -> None:
        """Go on to what follows the recorded *seconds*; at the end `phase` is None."""
        elapsed = sum(second.duration_s for second in seconds if second.phase == self.phase)
        if self.phase in ("approach", "overload"):
            self._push(seconds, elapsed)
        elif self.phase == "peak":
            if elapsed >= self._options.hold_s:
                peak = self._figures(seconds)
                self._peak, self._lag_s = peak.answered, _RETRY_S + peak.typical_s
                self.phase, self._grown_at = "approach", len(seconds)
        elif elapsed >= self._options.step_s:
            self._step(seconds)

    def _figures(self, seconds: list[Second]) -> Figures:
        return figures(seconds, self.phase or "", settle_s=self._options.settle_s)

    def _step(self, seconds: list[Second]) -> None:
        self._steps.append(self._figures(seconds))
        if self._flat() or self.users >= self._options.max_users:
            best = max(self._steps, key=lambda step: step.answered)
            self.phase, self.users = "peak", best.users
            return
        self.phase = f"ramp {len(self._steps) + 1}"
        self.users = min(self._options.max_users, math.ceil(self.users * _GROWTH))

    def _flat(self) -> bool:
        """Whether the last steps brought nothing that those before them had not."""
        now = self._steps[-1]
        full = now.refused > _FULL * (now.refused + now.answered_requests)
        patience = _PATIENCE_REFUSED if full else _PATIENCE
        before, last = self._steps[:-patience], self._steps[-patience:]
        if not before:
            return False
        reached = max(step.answered for step in before)
        return reached > 0 and all(step.answered < reached * _GAIN for step in last)

    def _push(self, seconds: list[Second], elapsed: float) -> None:
        """Add users until enough is offered; in the overload itself only if that is less than wanted on the whole."""
        if self.phase == "overload" and elapsed >= self._options.hold_s:
            self.phase = None
            return
        recent = since(seconds[self._grown_at :], self._lag_s)
        if sum(second.duration_s for second in recent) < _LOOK_S:
            return
        self._grown_at = len(seconds)
        judged = recent if self.phase == "approach" else [second for second in seconds if second.phase == self.phase]
        offered = sum(second.offered_texts for second in judged) / sum(second.duration_s for second in judged)
        wanted = OVERLOAD * self._peak * (_AIM if self.phase == "approach" else 1.0)
        if offered < wanted and self.users < self._options.max_users:
            # Refused ones ask again and again, so what is offered grows faster than the users.
            factor = min(_MOST, max(1.05, math.sqrt(wanted / max(offered, 1.0))))
            self.users = min(self._options.max_users, math.ceil(self.users * factor))
        elif self.phase == "approach":
            self.phase = "overload"


class Soak:
    """The same number of users all the time, told apart by quarters."""

    def __init__(self, options: Options) -> None:
        """Begin with the first quarter."""
        self.phase: str | None = "soak 1/4"
        self.users = options.users
        self._length_s = options.soak_s

    def advance(self, seconds: list[Second]) -> None:
        """Go on to what follows the recorded *seconds*; at the end `phase` is None."""
        elapsed = sum(second.duration_s for second in seconds)
        quarter = int(4 * elapsed / self._length_s) + 1
        self.phase = f"soak {quarter}/4" if quarter <= 4 else None


def plan(options: Options) -> Ramp | Soak:
    """Choose the shape that was asked for."""
    return Ramp(options) if options.shape == "ramp" else Soak(options)
