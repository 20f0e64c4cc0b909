"""What a load test is told, from the environment: nothing of it, least of all the key, is on a command line."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
SHAPES = ("ramp", "soak")
OVERLOAD = 3.0  # the offered load past saturation, as a multiple of the peak


@dataclass(frozen=True, slots=True)
class Options:
    """Where the load goes, its shape, and what it must show."""

    url: str = "http://127.0.0.1:8080"
    key: str = field(default="", repr=False)
    model: str = ""  # empty: the first that the server lists
    shape: str = "ramp"
    clients: tuple[str, ...] = ()  # classes of the locustfile; empty: all
    p99_ms: float = 500.0
    min_goodput: float = 0.9  # past saturation, as a share of the peak
    min_overload: float = OVERLOAD  # the offered load past saturation that a run must reach
    step_s: float = 20.0  # each step of the ramp
    hold_s: float = 40.0  # the peak, and the overload
    soak_s: float = 600.0
    users: int = 10  # of the first step, or of the soak
    max_users: int = 1500
    out: Path = ROOT / ".load"

    @classmethod
    def from_environment(cls) -> Self:
        """Read each field from the variable of its name in capitals.

        Raises:
            ValueError: a number that is none or out of its range, or an unknown shape; it names the variable.
        """
        default = cls()
        told = {name: value for name in cls.__slots__ if (value := os.environ.get(name.upper()))}

        def number(name: str, *, zero: bool = False) -> float:
            try:
                value = float(told.get(name, getattr(default, name)))
            except ValueError:
                value = math.nan
            if not (0 < value < math.inf or (zero and value == 0)):
                raise ValueError(f"{name.upper()} must be a number {'of 0 or more' if zero else 'above 0'}")
            return value

        def count(name: str) -> int:
            value = number(name)
            if value != int(value):
                raise ValueError(f"{name.upper()} must be a whole number")
            return int(value)

        options = cls(
            url=told.get("url", default.url).rstrip("/"),
            key=told.get("key", ""),
            model=told.get("model", ""),
            shape=told.get("shape", default.shape),
            clients=tuple(told.get("clients", "").split()),
            p99_ms=number("p99_ms"),
            min_goodput=number("min_goodput", zero=True),
            min_overload=number("min_overload", zero=True),
            step_s=number("step_s"),
            hold_s=number("hold_s"),
            soak_s=number("soak_s"),
            users=count("users"),
            max_users=count("max_users"),
            out=Path(told.get("out", default.out)),
        )
        if options.shape not in SHAPES:
            raise ValueError(f"SHAPE must be one of {', '.join(SHAPES)}")
        if options.shape == "ramp" and options.max_users < options.users:
            raise ValueError(f"MAX_USERS must be USERS ({options.users}) or more")
        return options

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every honest request."""
        key = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return {"Content-Type": "application/json", **key}

    @property
    def settle_s(self) -> float:
        """Seconds at the beginning of a phase that are not counted: what comes back was sent before."""
        return min(5.0, self.step_s * 0.3)
