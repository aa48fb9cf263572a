"""Who waits for whom on a GPU: shown on a device that works as late, and in as odd an order, as it may."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclust.embedding.encode_stream import EncodeStream

SIDE = 2


class FakeEvent:
    """How often it was asked to be recorded, and how often it was."""

    def __init__(self) -> None:
        self.asked = self.reached = 0


class FakeDevice:
    """Operations wait in their stream until somebody synchronises; streams take turns at random."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.streams: list[deque[Callable[[], bool]]] = []
        self.current: deque[Callable[[], bool]] | None = None
        self.log: list[str] = []

    def stream(self) -> Any:
        self.streams.append(deque())
        return self.streams[-1]

    def event(self) -> FakeEvent:
        return FakeEvent()

    @contextlib.contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def launch(self, what: str, work: Callable[[], object]) -> None:
        def operation() -> bool:
            self.log.append(what)
            work()
            return True

        assert self.current is not None, f"{what} on no stream"
        self.current.append(operation)

    def record(self, event: FakeEvent, stream: Any) -> None:
        event.asked += 1

        def operation() -> bool:
            event.reached += 1
            return True

        stream.append(operation)

    def wait(self, stream: Any, event: FakeEvent) -> None:
        number = event.asked
        stream.append(lambda: event.reached >= number)

    def synchronise(self, event: FakeEvent) -> None:
        self.log.append("synchronise")
        number = event.asked
        while event.reached < number:
            stream = self.chance.choice([s for s in self.streams if s])
            if stream[0]():
                stream.popleft()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.launch("copy", lambda: target.copy_(source))


def stream_on(device: FakeDevice, batch: int, bad: int = -1) -> EncodeStream:
    """A network whose row is the mean of the picture; it cannot be launched for the value `bad`."""
    launched = [0]

    def network(pixels: torch.Tensor) -> torch.Tensor:
        launched[0] += 1
        if launched[0] - 1 == bad:
            raise torch.OutOfMemoryError("no memory")
        rows = torch.zeros(len(pixels), 1)
        device.launch("network", lambda: rows.copy_(pixels.float().mean((1, 2, 3))[:, None]))
        return rows

    return EncodeStream(device, network, batch=batch, side=SIDE, dim=1)


def pictures(n: int) -> list[np.ndarray]:
    return [np.full((SIDE, SIDE, 3), i % 251, np.uint8) for i in range(n)]


@settings(deadline=None)
@given(n=st.integers(1, 40), batch=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_every_row_belongs_to_its_picture(n: int, batch: int, seed: int) -> None:
    """However streams take turns, no buffer is overwritten before its network has run, and no network runs
    before its pictures are there."""
    device = FakeDevice(seed)
    rows = stream_on(device, batch).encode(pictures(n))
    assert rows[:, 0].tolist() == [i % 251 for i in range(n)]
    assert device.log.count("synchronise") == -(-n // batch), "one synchronisation a batch"
    assert not any(device.streams), "nothing is left to do"


def test_the_next_batch_is_asked_for_before_the_last_is_waited_for() -> None:
    """Two batches are on their way before the host waits once; a third needs a result to be taken."""
    device = FakeDevice(0)
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
    stream = stream_on(device, 2, bad)
    with pytest.raises(torch.OutOfMemoryError):
        stream.encode(pictures(8))
    assert stream.under_way == 0
    assert stream.encode(pictures(7))[:, 0].tolist() == list(range(7))


@pytest.mark.parametrize("n", [0, 5])
def test_batches_that_do_not_fit_are_refused(n: int) -> None:
    """None, or more than the one shape holds: the number is named."""
    with pytest.raises(ValueError, match=f"not {n}"):
        stream_on(FakeDevice(0), 4).put(pictures(n))
