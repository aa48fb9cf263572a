"""Pending retries: what waits for another try, and when it is due. Pure but for the clock that is passed in.

Due times lie in a heap, so that a long delay of one upload blocks no other.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections import deque
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


@dataclasses.dataclass(slots=True)
class _Entry(Generic[T]):
    number: int  # in the heap; an entry with another number there is of the past
    item: T
    since: float
    nbytes: int
    ready: bool = False  # out of the heap: it is due


class PendingRetries(Generic[T]):
    """At most one pending item per key; a new one replaces the old one.

    All is O(log n) and looks at nothing twice, also with a million items: they come back after a restart.

    Attributes:
        nbytes: of all items, as `add` was told.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._items: dict[str, _Entry[T]] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._oldest: list[tuple[float, int, str]] = []
        self._ready: deque[tuple[int, str]] = deque()
        self._due = 0  # alive in `_ready`
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, key: str, item: T, due: float, since: float, nbytes: int = 0) -> None:
        """`due`: on the clock of `take_due`; `since`: when it began to wait, on the clock of `oldest`."""
        if key in self._items:
            self.remove(key)
        number = next(self._numbers)
        self._items[key] = _Entry(number, item, since, nbytes)
        self.nbytes += nbytes
        heapq.heappush(self._heap, (due, number, key))
        heapq.heappush(self._oldest, (since, number, key))
        # entries of the past are left in the heaps; when they are most of them, they are built anew
        if len(self._oldest) > 64 and len(self._oldest) > 2 * len(self._items):
            for heap in (self._heap, self._oldest):
                heap[:] = [entry for entry in heap if self._alive(entry[1], entry[2])]
                heapq.heapify(heap)

    def _alive(self, number: int, key: str) -> bool:
        current = self._items.get(key)
        return current is not None and current.number == number

    def remove(self, key: str) -> T | None:
        """Forget the item of `key` and return it."""
        found = self._items.pop(key, None)
        if found is None:
            return None
        self._due -= found.ready
        self.nbytes -= found.nbytes
        return found.item

    def _collect(self, now: float) -> None:
        """Move what is due by now from the heap to the ready ones, in the order of the due times."""
        while self._heap and self._heap[0][0] <= now:
            _, number, key = heapq.heappop(self._heap)
            if self._alive(number, key):
                self._items[key].ready = True
                self._ready.append((number, key))
                self._due += 1

    def due(self, now: float) -> int:
        """How many items could be taken now."""
        self._collect(now)
        return self._due

    def take_due(self, now: float, limit: int) -> list[T]:
        """Up to `limit` items whose time has come, earliest first; they are no longer pending."""
        self._collect(now)
        taken: list[T] = []
        while self._ready and len(taken) < limit:
            number, key = self._ready.popleft()
            if self._alive(number, key) and (item := self.remove(key)) is not None:
                taken.append(item)
        return taken

    def items(self) -> list[T]:
        return [entry.item for entry in self._items.values()]

    def oldest(self) -> float | None:
        """The earliest `since`; None when nothing is pending."""
        while self._oldest and not self._alive(self._oldest[0][1], self._oldest[0][2]):
            heapq.heappop(self._oldest)
        return self._oldest[0][0] if self._oldest else None
