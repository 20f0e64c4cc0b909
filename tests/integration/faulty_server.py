"""The real server with an engine that breaks on two inputs: `python -m tests.integration.faulty_server`."""

from __future__ import annotations

import numpy as np

from handler.__main__ import main
from handler.vllm_core import VllmCore

FATAL = [666, 666, 666]
NOT_A_NUMBER = [777, 777, 777]


class FatalInputError(RuntimeError):
    """Stands for whatever kills a device."""


def break_on_bad_inputs() -> None:
    """Make the step after the fatal input raise, as a device error would, and one vector's numbers NaN."""
    add, step = VllmCore.add, VllmCore.step
    fatal: list[int] = []
    not_numbers: set[int] = set()

    def add_or_mark(core: VllmCore, key: int, token_ids: list[int], priority: int = 0) -> None:
        if token_ids == FATAL:
            fatal.append(key)
        if token_ids == NOT_A_NUMBER:
            not_numbers.add(key)
        add(core, key, token_ids, priority)

    def step_or_raise(core: VllmCore) -> object:
        if fatal:
            raise FatalInputError
        return [(key, np.full_like(row, np.nan) if key in not_numbers else row) for key, row in step(core)]

    VllmCore.add = add_or_mark  # type: ignore[assignment,method-assign]  # that is the point of this file
    VllmCore.step = step_or_raise  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    break_on_bad_inputs()
    main()
