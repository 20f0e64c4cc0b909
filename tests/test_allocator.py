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


_GROWN = """
import numpy as np
import resource
from handler import allocator

assert allocator.keep_freed_memory()
allocator._LOOK_EVERY_S = 0
trimmer = allocator.Trimmer()
print(trimmer.look())  # nothing has grown
held = [np.ones(1 << 20, dtype=np.uint8) for _ in range(300)]
last = held.pop()  # at the end of the heap: what is free before it cannot be given back by shrinking the heap
before = trimmer._resident_bytes()
held.clear()
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # no file can be opened any more
print(trimmer.look(), (before - trimmer._resident_bytes()) >> 20)
print(trimmer.look())  # what is left is what is needed
"""


def test_grown_memory_is_given_back_once() -> None:
    """What is free goes back to the kernel when the process has grown, and only then; without a new descriptor."""
    done = subprocess.run([sys.executable, "-c", _GROWN], check=True, capture_output=True, text=True)
    first, grown, after = done.stdout.splitlines()
    assert (first, after) == ("False", "False")
    given, megabytes = grown.split()
    assert given == "True"
    assert int(megabytes) >= 290
