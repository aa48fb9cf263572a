"""Stands where a GPU stands, on a processor: every operation waits in its stream until somebody synchronises.

It works as late, and in as odd an order, as a GPU may: streams take turns at random. A missing wait shows as
a wrong row. A network is run as a graph is: what goes in and what comes out lie in the same memory each time.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch

from imgclust.embedding.encode_stream import Network
from imgclust.types import Pixels

Stream = deque[Callable[[], bool]]


class FakeEvent:
    """How often it was asked to be recorded, and how often it was."""

    def __init__(self) -> None:
        self.asked = self.reached = 0


class FakeDevice:
    """See `imgclust.embedding.encode_stream.Device`.

    Args:
        seed: of the order in which streams take turns.
        most: longer batches find no memory.
        refuses: why `register` refuses.

    Attributes:
        log: what was done, in order: "copy", "network", "synchronise".
        registered: what `register` was given last.
        bad: numbers of launches of a network that fail; the first is 0.
    """

    def __init__(self, seed: int = 0, *, most: int = 1 << 30, refuses: str | None = None) -> None:
        self.chance = random.Random(seed)
        self.most, self.refuses = most, refuses
        self.streams: list[Stream] = []
        self.current: Stream | None = None
        self.log: list[str] = []
        self.registered: Pixels | None = None
        self.bad: frozenset[int] = frozenset()
        self.launched = 0

    def stream(self) -> Stream:
        self.streams.append(deque())
        return self.streams[-1]

    def event(self) -> FakeEvent:
        return FakeEvent()

    @contextlib.contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
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

    def record(self, event: FakeEvent, stream: Stream) -> None:
        event.asked += 1

        def operation() -> bool:
            event.reached += 1
            return True

        stream.append(operation)

    def wait(self, stream: Stream, event: FakeEvent) -> None:
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
        if shape[0] > self.most:
            raise torch.OutOfMemoryError(f"no memory for a batch of {shape[0]}")
        return torch.zeros(shape, dtype=dtype)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.launch("copy", lambda: target.copy_(source))

    def captured(self, network: Network, shape: tuple[int, ...]) -> Network:
        pixels = self.empty(shape, torch.uint8)
        rows: Any = network(pixels).clone()

        def replay(given: torch.Tensor) -> torch.Tensor:
            self.launched += 1
            if self.launched - 1 in self.bad:
                raise RuntimeError("the launch failed")
            self.launch("network", lambda: rows.copy_(network(pixels.copy_(given))))
            return rows

        return replay

    def register(self, memory: Pixels) -> str | None:
        if self.refuses is None:
            self.registered = memory
        return self.refuses

    def unregister(self) -> None:
        self.registered = None

    def release_cached(self) -> None:
        pass
