"""Jobs waiting for their turn, so that no host keeps the others waiting. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


def host_of(url: str) -> str:
    """What connections are shared by: the URL's authority, roughly; the URL itself is checked elsewhere."""
    return url.partition("//")[2].partition("/")[0].lower()[:300]


class FairQueue(Generic[T]):
    """First come, first served within a host; hosts take turns; at most `per_host` of one at work at once."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()  # hosts that may start, next one first
        self._blocked: dict[str, deque[T]] = {}  # hosts at their limit
        self._working: Counter[str] = Counter()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, host: str, item: T) -> None:
        self._of(host).append(item)
        self._size += 1

    def put_first(self, host: str, item: T) -> None:
        """Before all others of the host, and the host before all others."""
        self._of(host).appendleft(item)
        self._size += 1
        if host in self._waiting:
            self._waiting.move_to_end(host, last=False)

    def take(self) -> tuple[str, T] | None:
        """The next item to work on, or None; `done(host)` must follow for each."""
        if not self._waiting:
            return None
        host, items = self._waiting.popitem(last=False)
        item = items.popleft()
        self._size -= 1
        self._working[host] += 1
        if items:
            full = self._working[host] >= self._per_host
            (self._blocked if full else self._waiting)[host] = items
        return host, item

    def claim(self, host: str) -> None:
        """Work on an item that did not come from here; `done(host)` must follow."""
        self._working[host] += 1
        if self._working[host] >= self._per_host and host in self._waiting:
            self._blocked[host] = self._waiting.pop(host)

    def done(self, host: str) -> None:
        """One of the host's items is finished."""
        self._working[host] -= 1
        if host in self._blocked and self._working[host] < self._per_host:
            self._waiting[host] = self._blocked.pop(host)
        if not self._working[host]:
            del self._working[host]

    def drop(self, unwanted: Callable[[T], bool]) -> None:
        """Take out what nobody wants any more."""
        for queues in (self._waiting, self._blocked):
            for host in list(queues):
                kept = deque(item for item in queues[host] if not unwanted(item))
                self._size -= len(queues[host]) - len(kept)
                if kept:
                    queues[host] = kept
                else:
                    del queues[host]

    def _of(self, host: str) -> deque[T]:
        queues = self._blocked if self._working[host] >= self._per_host else self._waiting
        return queues.setdefault(host, deque())
