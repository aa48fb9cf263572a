"""Items → batches, by size or age. Pure: time is passed in."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """A batch leaves when it is full, or when its first item has waited for `max_wait` seconds.

    `max_wait=0` sends whatever is ready.
    """

    def __init__(self, max_size: int, max_wait: float) -> None:
        if max_size < 1 or max_wait < 0:
            raise ValueError(f"max_size must be >= 1 and max_wait >= 0, got {max_size} and {max_wait}")
        self._max_size = max_size
        self._max_wait = max_wait
        self._items: deque[tuple[float, T]] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T, now: float) -> None:
        self._items.append((now, item))

    def take(self, now: float) -> list[T]:
        """The next batch, oldest first; empty when none is due."""
        due = len(self._items) >= self._max_size or (bool(self._items) and self.wait(now) == 0)
        if not due:
            return []
        return [self._items.popleft()[1] for _ in range(min(self._max_size, len(self._items)))]

    def age(self, now: float) -> float:
        """Seconds that the oldest item has waited; 0 without any."""
        return now - self._items[0][0] if self._items else 0.0

    def wait(self, now: float) -> float | None:
        """Seconds until a batch is due: 0 when one is, None when there is nothing to wait for."""
        if not self._items:
            return None
        if len(self._items) >= self._max_size:
            return 0.0
        return max(0.0, self._items[0][0] + self._max_wait - now)
