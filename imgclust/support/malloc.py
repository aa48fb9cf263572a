"""Tells glibc's malloc to keep freed memory, for processes that encode on a CPU.

A layer's activations for 64 pictures are up to 100 MB. glibc maps and unmaps blocks of that size for every
layer, and the page faults cost more than the arithmetic. docs/decisions/0014 has the figures.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Keep what is freed, in one arena; nothing happens outside of Linux with glibc.

    One arena, because those of other threads cannot hold blocks above 32 MB and map each of them anew.
    Threads keep the arena that they have: where a thread other than the main one encodes, call this before
    any thread is started.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library: no such call, no such trouble
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        libc.mallopt(_M_ARENA_MAX, 1)
