"""`worker.fetching.shared_slots`: the ring of shared memory."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import StartError
from worker.fetching.shared_slots import SharedSlots, share


@given(st.integers(1, 64), st.integers(0, 1000))
def test_shares_cover_every_slot_once(processes: int, extra: int) -> None:
    """No slot belongs to two fetchers or to none, and every fetcher has one."""
    slots = processes + extra
    parts = [share(slots, processes, i) for i in range(processes)]
    assert [slot for part in parts for slot in part] == list(range(slots))
    assert min(map(len, parts)) >= 1
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_one_side_writes_the_other_reads() -> None:
    """Two mappings of one file show the same pictures, marks and heartbeats."""
    ours = SharedSlots.create(slots=5, size=8, processes=3)
    theirs = SharedSlots(os.dup(ours.file), 5, 8, 3)
    picture = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    theirs.pixels(4)[...] = picture
    theirs.mark(2, 2**40)
    theirs.beat(2)
    assert np.array_equal(ours.pixels(4), picture)
    assert not ours.pixels(3).any()
    assert (ours.marked(2), ours.beats(2)) == (2**40, 1)
    assert (ours.marked(1), ours.beats(1)) == (0, 0)
    for ring in (ours, theirs):
        ring.close()


def test_closing_is_safe_while_a_picture_is_held() -> None:
    """A view outlives the ring; its memory goes with it."""
    ring = SharedSlots.create(slots=1, size=4, processes=1)
    view = ring.pixels(0)
    ring.close()
    ring.close()
    view[...] = 7
    assert view.sum() == 7 * 4 * 4 * 3


def test_too_little_memory_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is claimed at the start, and the error names the setting to lower."""

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(StartError, match=r"No space left on device.*lower WORKER_SLOTS"):
        SharedSlots.create(slots=64, size=224, processes=2)


def test_nothing_is_left_in_the_file_system() -> None:
    """The block has no name that could outlive a killed process."""
    shm = "/dev/shm"
    before = set(os.listdir(shm)) if os.path.isdir(shm) else set()
    ring = SharedSlots.create(slots=2, size=16, processes=1)
    now = set(os.listdir(shm)) if os.path.isdir(shm) else set()
    ring.close()
    assert not any("imgclust" in name or name.startswith("psm_") for name in now - before)
