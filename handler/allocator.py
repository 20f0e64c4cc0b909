"""glibc's allocator, told to keep what it has: every layer of a model allocates its results anew and frees them.

By itself glibc asks the kernel for each block over some hundred kB and gives it back when it is freed, and the kernel
clears the pages each time: a fifth to a third of an encoder's time on CPUs. Source: mallopt(3), malloc.h of glibc.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD = -1  # the free memory at the end of the heap that is given back to the kernel
_MMAP_THRESHOLD = -3  # the size from which the kernel is asked for a block of its own
_ARENA_MAX = -8  # heaps; those of threads are in pieces of 64 MB, which large blocks do not fit into
_MOST_BYTES = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let freed blocks be used again instead of given back; False where the C library is another one."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: _MOST_BYTES, -2: 64 << 20}
    return all(mallopt(parameter, value) == 1 for parameter, value in wanted.items())
