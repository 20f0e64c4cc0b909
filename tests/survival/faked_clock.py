"""The real server under libfaketime: `python -m tests.survival.faked_clock`."""

from __future__ import annotations

import select
import time
from typing import Any


def sleep(seconds: Any) -> None:
    """Sleep by another system call: libfaketime 0.9.10 miscounts the absolute time of the one that Python uses."""
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], seconds)


if __name__ == "__main__":
    time.sleep = sleep
    from handler.__main__ import main

    main()
