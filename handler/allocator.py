"""glibc's allocator, told to keep what it has: every layer of a model allocates its results anew and frees them.

By itself glibc asks the kernel for each block over some hundred kB and gives it back when it is freed, and the kernel
clears the pages each time: a fifth to a third of an encoder's time on CPUs. But batches differ in size and so do the
blocks, and what is kept falls to pieces: a server of MiniLM came to hold 550 MB that nobody used. So what is free is
given back after all whenever the process has grown. Source: mallopt(3), malloc_trim(3), malloc.h of glibc.
"""

from __future__ import annotations

import ctypes
import os
import resource
import time
import weakref

# parameter -> bytes
_WANTED = {
    -3: 32 * 2**20,  # M_MMAP_THRESHOLD, the size from which the kernel is asked for a block of its own
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD, the free memory at the end of a heap that is given back
    -2: 64 * 2**20,  # M_TOP_PAD, how much more is asked for, and kept, than is needed now
}

_GROWTH_BYTES = 128 * 2**20
_LOOK_EVERY_S = 1.0


def keep_freed_memory() -> bool:
    """Let freed blocks be used again instead of given back; False where the C library is another one."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in _WANTED.items())


class Trimmer:
    """Gives freed memory back when the process has grown; used by one thread only."""

    def __init__(self) -> None:
        """Take the memory of now as what the process needs."""
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)  # later there may be no descriptor left
        weakref.finalize(self, os.close, self._statm)
        self._needed = self._resident_bytes()
        self._looked = time.monotonic()

    def look(self) -> bool:
        """Give back what is free if the process has grown; looks once a second at most. True: something was given."""
        now = time.monotonic()
        if self._trim is None or now - self._looked < _LOOK_EVERY_S:
            return False
        self._looked = now
        if self._resident_bytes() <= self._needed + _GROWTH_BYTES:
            return False
        self._trim(0)
        self._needed = self._resident_bytes()
        return True

    def _resident_bytes(self) -> int:
        return int(os.pread(self._statm, 100, 0).split()[1]) * resource.getpagesize()
