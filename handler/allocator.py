"""glibc's allocator, told to keep what it has: every layer of a model allocates its results anew and frees them.

By itself glibc asks the kernel for each block over some hundred kB and gives it back when it is freed, and the kernel
clears the pages each time: a fifth to a third of an encoder's time on CPUs. Source: mallopt(3), malloc.h of glibc.
"""

from __future__ import annotations

import ctypes

# parameter -> bytes
_WANTED = {
    -3: 32 * 2**20,  # M_MMAP_THRESHOLD, the size from which the kernel is asked for a block of its own
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD, the free memory at the end of a heap that is given back
    -2: 64 * 2**20,  # M_TOP_PAD, how much more is asked for, and kept, than is needed now
}


def keep_freed_memory() -> bool:
    """Let freed blocks be used again instead of given back; False where the C library is another one."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in _WANTED.items())
