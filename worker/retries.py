"""Pending retries: what waits for another try, and when it is due. Pure but for the clock that is passed in.

Due times lie in a heap, so that a long delay of one upload blocks no other.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

T = TypeVar("T")

GROWTH = 4.0
# `not-found` may be an upload whose file is still on its way to the servers; after so long it is not.
NOT_FOUND_GRACE_MS = 10 * 60 * 1000


def delay(
    attempt: int, first: float, longest: float, spread: float, retry_after: float | None = None
) -> float:
    """Seconds to wait after the failed try number `attempt` (1 is the first).

    Args:
        spread: uniform in 0..1; ± 20 %, so that what failed together does not return together.
        retry_after: what the server asked for; it is honoured up to `longest`.
    """
    grown = min(longest, first * GROWTH ** (attempt - 1)) * (0.8 + 0.4 * spread)
    return min(longest, max(grown, retry_after or 0.0))


class PendingRetries(Generic[T]):
    """At most one pending item per key; a new one replaces the old one."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str]] = []
        self._items: dict[str, tuple[int, T, float]] = {}  # key → number in the heap, item, since
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, key: str, item: T, due: float, now: float) -> None:
        number = next(self._numbers)
        self._items[key] = (number, item, now)
        heapq.heappush(self._heap, (due, number, key))
        # superseded entries are left in the heap; when they are most of it, it is built anew
        if len(self._heap) > 64 and len(self._heap) > 2 * len(self._items):
            self._heap = [entry for entry in self._heap if self._alive(entry)]
            heapq.heapify(self._heap)

    def _alive(self, entry: tuple[float, int, str]) -> bool:
        current = self._items.get(entry[2])
        return current is not None and current[0] == entry[1]

    def remove(self, key: str) -> T | None:
        """Forget the item of `key` and return it."""
        found = self._items.pop(key, None)
        return None if found is None else found[1]

    def take_due(self, now: float, limit: int) -> list[T]:
        """Up to `limit` items whose time has come, earliest first; they are no longer pending."""
        due: list[T] = []
        while self._heap and len(due) < limit and (self._heap[0][0] <= now or not self._alive(self._heap[0])):
            entry = heapq.heappop(self._heap)
            if self._alive(entry):
                due.append(self._items.pop(entry[2])[1])
        return due

    def items(self) -> list[T]:
        return [item for _, item, _ in self._items.values()]

    def counts(self, now: float) -> tuple[int, int, float]:
        """How many are pending, how many of them are due, and the seconds that the oldest has waited."""
        due = sum(1 for entry in self._heap if entry[0] <= now and self._alive(entry))
        oldest = max((now - since for _, _, since in self._items.values()), default=0.0)
        return len(self._items), due, oldest
