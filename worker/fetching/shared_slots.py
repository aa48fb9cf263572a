"""The ring of decoded pictures in shared memory, between the fetcher processes and the parent.

One block without a name (a memfd on Linux, an unlinked temporary file elsewhere), handed to each fetcher as
an open file: nothing can leak in /dev/shm, no resource tracker is needed, and Docker's 64 MB do not bound it.

    ┌ one row per fetcher: token being decoded, heartbeat ┐ padding to a page ┌ slot 0 ┐ ┌ slot 1 ┐ …

Who may write where is fixed: row i and the slots `share(slots, n, i)` belong to fetcher i. Whether a slot is
free is exchanged by messages, never through the block.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile

import numpy as np
import numpy.typing as npt

from imgclust.types import Pixels
from worker.errors import StartError

_ROW = 2  # int64: token, heartbeat
_ITEM = 8


def share(slots: int, processes: int, index: int) -> range:
    """The slots of fetcher `index`: contiguous, of sizes that differ by at most one."""
    base, extra = divmod(slots, processes)
    first = index * base + min(index, extra)
    return range(first, first + base + (index < extra))


def _header_bytes(processes: int) -> int:
    return -(-processes * _ROW * _ITEM // mmap.PAGESIZE) * mmap.PAGESIZE


class SharedSlots:
    """`slots` pictures of uint8 (size, size, 3), and one row of state per fetcher.

    Args:
        file: an open file of `bytes_needed`, from `create`; the ring owns it from now on.
    """

    def __init__(self, file: int, slots: int, size: int, processes: int) -> None:
        self.slots, self.size, self.processes = slots, size, processes
        self.file = file
        header = _header_bytes(processes)
        self._block = mmap.mmap(file, header + slots * size * size * 3)
        self._rows: npt.NDArray[np.int64] = np.frombuffer(self._block, np.int64, processes * _ROW)
        self._rows = self._rows.reshape(processes, _ROW)
        self._pixels: Pixels = np.frombuffer(self._block, np.uint8, slots * size * size * 3, header)
        self._pixels = self._pixels.reshape(slots, size, size, 3)

    @classmethod
    def create(cls, slots: int, size: int, processes: int) -> SharedSlots:
        """Make a ring; its memory is claimed at once, so that no later write can fail.

        Raises:
            StartError: there is not enough memory for it.
        """
        total = _header_bytes(processes) + slots * size * size * 3
        file = _anonymous_file()
        try:
            os.ftruncate(file, total)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file, 0, total)
            return cls(file, slots, size, processes)
        except OSError as error:
            os.close(file)
            raise StartError(
                f"no {total / 2**20:.0f} MiB of shared memory for {slots} decoded images of {size} × {size} "
                f"pixels ({error.strerror}); lower WORKER_SLOTS, or give the worker more memory"
            ) from None

    @property
    def memory(self) -> Pixels:
        """All slots: a view, uint8 (slots, size, size, 3), that begins a page of memory."""
        return self._pixels

    def pixels(self, slot: int) -> Pixels:
        """The picture in a slot: a view, uint8 (size, size, 3)."""
        view: Pixels = self._pixels[slot]
        return view

    # Rows are written by one process and read by another: aligned 64-bit stores, which do not tear on any
    # machine that this runs on; nothing else is promised by them, and nothing else is needed.

    def mark(self, index: int, token: int) -> None:
        """Say which token fetcher `index` decodes from now on; 0: none."""
        self._rows[index, 0] = token

    def marked(self, index: int) -> int:
        return int(self._rows[index, 0])

    def beat(self, index: int) -> None:
        """Say that the event loop of fetcher `index` turns."""
        self._rows[index, 1] += 1

    def beats(self, index: int) -> int:
        return int(self._rows[index, 1])

    def close(self) -> None:
        """Give the memory back, as soon as no view of it is left."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1
        self._rows = self._pixels = np.empty(0, np.int64)
        with contextlib.suppress(BufferError):  # somebody still holds a picture; the memory goes with it
            self._block.close()


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("imgclust-slots", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
