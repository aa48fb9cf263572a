"""Who waits for whom on a GPU: shown on a device that works as late, and in as odd an order, as it may."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fake_device import FakeDevice
from imgclust.embedding.encode_stream import EncodeStream

SIDE = 2


def stream_on(device: FakeDevice, batch: int) -> EncodeStream:
    """A network whose row is the mean of the picture."""
    return EncodeStream(
        device, lambda pixels: pixels.float().mean((1, 2, 3))[:, None], batch=batch, side=SIDE, dim=1
    )


def pictures(n: int) -> list[np.ndarray]:
    return [np.full((SIDE, SIDE, 3), i % 251, np.uint8) for i in range(n)]


@settings(deadline=None)
@given(n=st.integers(1, 40), batch=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_every_row_belongs_to_its_picture(n: int, batch: int, seed: int) -> None:
    """However streams take turns, no buffer is overwritten before its network has run, no network runs
    before its pictures are there, and no row before it has been fetched."""
    device = FakeDevice(seed)
    rows = stream_on(device, batch).encode(pictures(n))
    assert rows[:, 0].tolist() == [i % 251 for i in range(n)]
    assert device.log.count("synchronise") == -(-n // batch), "one synchronisation a batch"
    assert not any(device.streams), "nothing is left to do"


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=12), seed=st.integers(0, 10**6))
def test_pictures_may_be_overwritten_when_they_are_taken(lengths: list[int], seed: int) -> None:
    """A batch's pictures are read at the latest when it is taken: who overwrites them then spoils nothing."""
    stream = stream_on(FakeDevice(seed), 4)
    under_way: list[tuple[int, list[np.ndarray]]] = []
    for number, length in enumerate([*lengths, 0, 0]):
        if under_way and (stream.full or not length):
            expected, old = under_way.pop(0)
            assert stream.take().ravel().tolist() == [expected] * len(old)
            for picture in old:
                picture[:] = 255
        if length:
            under_way.append((number, [np.full((SIDE, SIDE, 3), number, np.uint8) for _ in range(length)]))
            stream.put(under_way[-1][1])
    assert stream.under_way == len(under_way) == 0


def test_the_next_batch_is_asked_for_before_the_last_is_waited_for() -> None:
    """Two batches are on their way before the host waits once; a third needs a result to be taken."""
    device = FakeDevice()
    stream = stream_on(device, 4)
    stream.put(pictures(4))
    stream.put(pictures(3))
    assert device.log == []
    assert stream.full
    assert len(stream.take()) == 4
    assert len(stream.take()) == 3
    assert device.log.count("synchronise") == 2


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_after_an_error_the_stream_goes_on(bad: int) -> None:
    """A launch that fails raises, leaves nothing under way, and costs no buffer."""
    device = FakeDevice(1)
    device.bad = frozenset({bad})
    stream = stream_on(device, 2)
    with pytest.raises(RuntimeError, match="the launch failed"):
        stream.encode(pictures(8))
    assert stream.under_way == 0
    assert stream.encode(pictures(7))[:, 0].tolist() == list(range(7))


def test_a_device_without_memory_says_so() -> None:
    """Buffers that find none are no stream."""
    with pytest.raises(torch.OutOfMemoryError, match="batch of 8"):
        stream_on(FakeDevice(most=4), 8)


@pytest.mark.parametrize("n", [0, 5])
def test_batches_that_do_not_fit_are_refused(n: int) -> None:
    """None, or more than the one shape holds: the number is named."""
    with pytest.raises(ValueError, match=f"not {n}"):
        stream_on(FakeDevice(), 4).put(pictures(n))
