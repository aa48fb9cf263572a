"""Batches through a device that goes on by itself: it has the next batch before the last one is done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from imgclust.types import Floats, Pixels, StreamingEncoder

T = TypeVar("T")


class EncodeAhead(Generic[T]):
    """Pictures go to the device from where they lie, and must stay there until their rows have come.

    Args:
        picture: item → uint8 (size, size, 3).
        encoded: a batch, its rows, and when the device was free to begin with it.
        alone: encodes a batch that failed, with nothing else under way.
        failed: is told which batch is to be encoded alone, and the error.
        at_work: called when the device gets something to do, or gives something back; False: it rests.
    """

    def __init__(
        self,
        encoder: StreamingEncoder,
        *,
        picture: Callable[[T], Pixels],
        encoded: Callable[[list[T], Floats, float], None],
        alone: Callable[[list[T]], None],
        failed: Callable[[list[T], Exception], object] = lambda *_: None,
        at_work: Callable[[bool], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._encoder = encoder
        self._picture, self._encoded = picture, encoded
        self._alone, self._failed, self._at_work = alone, failed, at_work
        self._clock = clock
        self._under_way: deque[tuple[list[T], float]] = deque()
        self._free_since = 0.0

    def run(self, next_batch: Callable[[bool], list[T] | None]) -> None:
        """Until there is no next batch; what is under way is finished.

        Args:
            next_batch: True waits for one, False gives none where none is due; None: it is over.
        """
        while (batch := next_batch(not self._under_way)) is not None:
            if batch:
                self.add(batch)
            elif self._under_way:
                self._take()
        self.finish()

    def add(self, batch: list[T]) -> None:
        """Have a batch encoded. When this returns one batch at most is under way, this one."""
        while batch:
            most = self._encoder.most  # less than before, when memory was short
            self._put(batch[:most])
            batch = batch[most:]
            if self._encoder.full:
                self._take()

    def finish(self) -> None:
        """Wait for what is under way."""
        while self._under_way:
            self._take()

    def _put(self, batch: list[T]) -> None:
        self._at_work(True)
        started = self._clock()
        try:
            self._encoder.put([self._picture(item) for item in batch])
        except Exception as error:
            self._again(batch, error)
        else:
            self._under_way.append((batch, started))

    def _take(self) -> None:
        self._at_work(True)
        batch, started = self._under_way.popleft()
        try:
            rows = self._encoder.take()
            if not np.isfinite(rows).all():
                raise ValueError("the encoder returned numbers that are not finite")
        except Exception as error:
            self._again(batch, error)
        else:
            self._encoded(batch, rows, max(started, self._free_since))
        self._free_since = self._clock()
        self._at_work(bool(self._under_way))

    def _again(self, batch: list[T], error: Exception) -> None:
        self._failed(batch, error)
        self.finish()
        self._alone(batch)
