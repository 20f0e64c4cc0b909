from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = """
import sys, threading
import numpy as np
import psutil
from handler.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()

def use() -> None:
    before = psutil.Process().memory_info().rss
    for megabytes in (1, 30):
        np.ones(megabytes << 20, dtype=np.uint8)
    print((psutil.Process().memory_info().rss - before) >> 20)

thread = threading.Thread(target=use)
thread.start()
thread.join()
"""


@pytest.mark.parametrize(("how", "least", "most"), [("kept", 25, 60), ("as it is", -1, 10)])
def test_freed_memory_is_kept(how: str, least: int, most: int) -> None:
    """What a thread has used and freed, as a model's layers do, stays with the process and is used again."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT, how], check=True, capture_output=True, text=True)
    assert least <= int(done.stdout) <= most
