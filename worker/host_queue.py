"""Jobs waiting for a connection, so that no host keeps the others waiting. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


def host_of(url: str) -> str:
    """What connections are shared by: the URL's authority, roughly; the URL itself is checked elsewhere."""
    return url.partition("//")[2].partition("/")[0].lower()[:300]


class HostQueue(Generic[T]):
    """First come, first served within a host; hosts take turns; at most `per_host` of one at work at once."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()  # hosts that may start, next one first
        self._blocked: dict[str, deque[T]] = {}  # hosts at their limit
        self._working: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values())) + sum(map(len, self._blocked.values()))

    def put(self, host: str, item: T) -> None:
        queues = self._blocked if self._working[host] >= self._per_host else self._waiting
        queues.setdefault(host, deque()).append(item)

    def take(self) -> tuple[str, T] | None:
        """The next item to work on, or None; `done(host)` must follow for each."""
        if not self._waiting:
            return None
        host, items = self._waiting.popitem(last=False)
        item = items.popleft()
        self._working[host] += 1
        if items:
            full = self._working[host] >= self._per_host
            (self._blocked if full else self._waiting)[host] = items
        return host, item

    def done(self, host: str) -> None:
        """One of the host's items is finished."""
        self._working[host] -= 1
        if not self._working[host]:
            del self._working[host]
        if host in self._blocked:
            self._waiting[host] = self._blocked.pop(host)
