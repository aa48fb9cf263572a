"""Pictures → rows on a GPU, so that nothing waits that need not: two buffers, two streams, one wait a batch.

    host      copy 1 ─► copy 2 ─────────► copy 3 ───────► …      copies are asked for, and go on by themselves
    copying          1 ▓▓     2 ▓▓               3 ▓▓            picture by picture, from where they lie
    computing             1 ▓▓▓▓▓▓▓▓  2 ▓▓▓▓▓▓▓▓  3 ▓▓▓▓▓▓▓▓     one shape; rows go to pinned memory
    host                            wait 1     wait 2            the only synchronisation of a batch

A buffer's pictures are overwritten when its network has run; the copying stream waits for that, not the host.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from imgclust.types import Floats, Pixels

Network = Callable[[torch.Tensor], torch.Tensor]


class Device(Protocol):
    """What of CUDA is used: streams, events, memory, and graphs; see `imgclust.embedding.cuda.Cuda`."""

    def stream(self) -> Any: ...
    def event(self) -> Any: ...
    def on(self, stream: Any) -> contextlib.AbstractContextManager[Any]: ...
    def record(self, event: Any, stream: Any) -> None: ...
    def wait(self, stream: Any, event: Any) -> None: ...
    def synchronise(self, event: Any) -> None: ...
    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor: ...
    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor: ...
    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None: ...
    def captured(self, network: Network, shape: tuple[int, ...]) -> Network: ...
    def register(self, memory: Pixels) -> str | None: ...
    def unregister(self) -> None: ...
    def release_cached(self) -> None: ...


class _Buffer:
    def __init__(self, device: Device, pixels: tuple[int, ...], dim: int) -> None:
        self.pixels = device.empty(pixels, torch.uint8)
        self.rows = device.pinned((pixels[0], dim), torch.float32)
        self.copied, self.computed = device.event(), device.event()
        self.length = 0
        self.used = False


class EncodeStream:
    """Batches in order: at most two are on their way.

    Args:
        device: `Cuda`, or what stands for it.
        network: uint8 (batch, side, side, 3) on the device → float32 (batch, dim) there.
        batch, side, dim: the one shape.
    """

    def __init__(
        self,
        device: Device,
        network: Network,
        *,
        batch: int,
        side: int,
        dim: int,
    ) -> None:
        self._device, self._batch = device, batch
        self._network = device.captured(network, (batch, side, side, 3))
        self._copying, self._computing = device.stream(), device.stream()
        self._free = deque(_Buffer(device, (batch, side, side, 3), dim) for _ in range(2))
        self._under_way: deque[_Buffer] = deque()

    @property
    def full(self) -> bool:
        """Whether `take` must come before another `put`."""
        return not self._free

    @property
    def under_way(self) -> int:
        """Batches that were put and not taken."""
        return len(self._under_way)

    def put(self, pictures: Sequence[Pixels]) -> None:
        """Ask for a batch; does not wait for the device. The pictures must stay as they are until `take`.

        Args:
            pictures: at most `batch`, uint8 (side, side, 3) each; where they are pinned nothing stops.
        """
        if not 0 < len(pictures) <= self._batch:
            raise ValueError(f"a batch has 1 to {self._batch} pictures, not {len(pictures)}")
        device, buffer = self._device, self._free.popleft()
        try:
            with device.on(self._copying):
                if buffer.used:
                    device.wait(self._copying, buffer.computed)
                for target, picture in zip(buffer.pixels, pictures, strict=False):
                    device.copy(target, torch.from_numpy(picture))
                device.record(buffer.copied, self._copying)
            with device.on(self._computing):
                device.wait(self._computing, buffer.copied)
                device.copy(buffer.rows, self._network(buffer.pixels))
                device.record(buffer.computed, self._computing)
        except BaseException:
            self._free.appendleft(buffer)
            raise
        buffer.length, buffer.used = len(pictures), True
        self._under_way.append(buffer)

    def take(self) -> Floats:
        """Rows of the batch that was put first, float32 (n, dim): waits for it, and for nothing else."""
        buffer = self._under_way.popleft()
        try:
            self._device.synchronise(buffer.computed)
            rows: Floats = buffer.rows[: buffer.length].numpy().copy()
        finally:
            self._free.append(buffer)
        return rows

    def encode(self, pictures: Sequence[Pixels]) -> Floats:
        """Any number of pictures, two batches at a time; after an error nothing is under way."""
        parts: list[Floats] = []
        try:
            for start in range(0, len(pictures), self._batch):
                if self.full:
                    parts.append(self.take())
                self.put(pictures[start : start + self._batch])
            while self.under_way:
                parts.append(self.take())
        finally:
            while self.under_way:
                with contextlib.suppress(RuntimeError):  # of the device: the first one is on its way up
                    self.take()
        return np.concatenate(parts)
