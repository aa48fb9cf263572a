"""What was encoded and waits for the predictor, which takes what waits together."""

from __future__ import annotations

import dataclasses
import queue
from collections import deque
from typing import Generic, TypeVar

import numpy as np

from imgclust.predictor.batches import BATCH
from imgclust.types import Floats

C = TypeVar("C")


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """Pictures that wait for the predictor, and since when."""

    tokens: list[int]
    embeddings: Floats
    since: float


class EncodedQueue(Generic[C]):
    """Batches in order, and between them what else is to happen; None: the end.

    It holds what the predictor takes at once, and at least two batches: more would only add latency.
    """

    def __init__(self, max_batch: int) -> None:
        self._queue: queue.Queue[Encoded | C | None] = queue.Queue(max(2, BATCH // max_batch))
        self._taken: deque[Encoded | C | None] = deque()  # from the queue, and not its turn yet

    def __len__(self) -> int:
        return self._queue.qsize()

    def put(self, item: Encoded | C | None) -> None:
        """Add a batch or the end; waits while the queue is full."""
        self._queue.put(item)

    def offer(self, item: C, timeout: float) -> bool:
        """Add what comes between batches; False: the queue was full for so many seconds."""
        try:
            self._queue.put(item, timeout=timeout)
        except queue.Full:
            return False
        return True

    def take(self) -> Encoded | C | None:
        """What comes next, after waiting for it; batches that wait behind it are with it, up to 256 rows: a
        predictor reads its codes once for a call, however many rows ask. For one thread."""
        item = self._taken.popleft() if self._taken else self._queue.get()
        return self._together(item) if isinstance(item, Encoded) else item

    def _together(self, first: Encoded) -> Encoded:
        parts, rows = [first], len(first.tokens)
        while rows < BATCH and not self._queue.empty():
            item = self._queue.get()
            if not isinstance(item, Encoded) or rows + len(item.tokens) > BATCH:
                self._taken.append(item)
                break
            parts.append(item)
            rows += len(item.tokens)
        if len(parts) == 1:
            return first
        tokens = [token for part in parts for token in part.tokens]
        return Encoded(tokens, np.concatenate([part.embeddings for part in parts]), first.since)
