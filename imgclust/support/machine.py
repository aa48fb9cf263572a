"""What the machine offers: cores, memory, the time, and what its allocator does."""

from __future__ import annotations

import contextlib
import ctypes
import datetime as dt
import os
import sys
from pathlib import Path

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def now() -> str:
    """RFC 3339, in UTC, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short, on the processor or on a device of torch."""
    # by name, as torch is not imported here; its allocator on a processor raises a RuntimeError, as MPS does
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(words in str(error) for words in ("can't allocate memory", "out of memory"))
    )


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes that this process may still take; None where the system does not report it.

    The smaller of the machine's available memory and what the control group (a container's limit) leaves.
    """
    found = [value for value in (_machine(), _control_group()) if value is not None]
    return min(found) if found else None


def _machine() -> int | None:
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:  # macOS reports its size only; half of it is a fair guess at what is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (OSError, ValueError):
        return None


def _control_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return limit - used + int(stat["inactive_file"])  # cached files make room when it is needed
    except (OSError, ValueError, KeyError):  # no such group, or no limit: "max"
        return None
