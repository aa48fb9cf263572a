"""The encode stage on a device that goes on by itself: it has the next batch before the last one is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from imgclust.types import Floats, Pixels, StreamingEncoder
from worker.tagger.prediction import Ready
from worker.telemetry import log as logs

log = logs.get(__name__)

Batch = list[Ready]


class EncodeAhead:
    """Pictures go to the device from the slots that they lie in; slots are given back when rows are there.

    Args:
        pixels: slot → uint8 (size, size, 3) view into shared memory.
        next_batch: True waits for one, False gives none where none is due; None: stopped.
        encoded: a batch, its rows, and when the device was free to begin with it.
        release: gives slots back.
        alone: encodes a batch that failed, with nothing else under way, and gives its slots back.
        failed: is told of an error for which a batch is encoded alone.
        at_work: called when the device gets something to do, or gives something back; False: it rests.
    """

    def __init__(
        self,
        encoder: StreamingEncoder,
        *,
        pixels: Callable[[int], Pixels],
        next_batch: Callable[[bool], Batch | None],
        encoded: Callable[[Batch, Floats, float], None],
        release: Callable[[list[int]], None],
        alone: Callable[[Batch], None],
        failed: Callable[[Exception], object],
        at_work: Callable[[bool], None],
        clock: Callable[[], float],
    ) -> None:
        self._encoder = encoder
        self._pixels, self._next_batch, self._encoded = pixels, next_batch, encoded
        self._release, self._alone, self._failed, self._at_work = release, alone, failed, at_work
        self._clock = clock
        self._under_way: deque[tuple[Batch, float]] = deque()
        self._free_since = 0.0

    def run(self) -> None:
        """Until `next_batch` says that it is over; what is under way is finished."""
        while (batch := self._next_batch(not self._under_way)) is not None:
            asked = bool(batch)
            while batch:
                if self._encoder.full:
                    self._take()
                most = self._encoder.most  # less than before, when memory was short
                self._put(batch[:most])
                batch = batch[most:]
            if self._under_way and (self._encoder.full or not asked):
                self._take()
        self._finish()

    def _put(self, batch: Batch) -> None:
        self._at_work(True)
        started = self._clock()
        try:
            self._encoder.put([self._pixels(item.slot) for item in batch])
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
            self._release([item.slot for item in batch])
            self._encoded(batch, rows, max(started, self._free_since))
        self._free_since = self._clock()
        self._at_work(bool(self._under_way))

    def _again(self, batch: Batch, error: Exception) -> None:
        self._failed(error)
        log.warning("a batch failed on the device; it is encoded alone", images=len(batch), error=str(error))
        self._finish()
        self._alone(batch)

    def _finish(self) -> None:
        while self._under_way:
            self._take()
