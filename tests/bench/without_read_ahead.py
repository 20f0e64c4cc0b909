"""The real server that does not read its weights ahead: `python -m tests.bench.without_read_ahead`."""

from __future__ import annotations

from handler import cold_start
from handler.__main__ import main

if __name__ == "__main__":
    vars(cold_start)["read_ahead"] = lambda _: None
    main()
