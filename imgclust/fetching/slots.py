"""Slots for what may run at once, in total and for one key, handed out in the order of asking."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Slots:
    """At most `total` slots are held at once, and of one key at most `per_key`.

    A key that is at its limit blocks nobody else: whoever asked first among those that may have a slot gets
    the next one.

    Args:
        total: at least 1.
        per_key: the limit of a key, at least 1; asked each time, so it may change.
    """

    def __init__(self, total: int, per_key: Callable[[str], int]) -> None:
        self._free = total
        self._per_key = per_key
        self._held: Counter[str] = Counter()
        self._waiting: dict[asyncio.Future[None], str] = {}  # in the order of asking

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Wait for a slot, and keep it while the context lasts.

        Raises:
            Exception: what `refuse` was given for this key while it waited.
        """
        if not self._take(key):
            await self._wait(key)
        try:
            yield
        finally:
            self._release(key)

    def refuse(self, key: str, error: Callable[[], Exception]) -> None:
        """End the waiting of all that ask for this key with an error."""
        for future in [future for future, wanted in self._waiting.items() if wanted == key]:
            del self._waiting[future]
            if not future.done():
                future.set_exception(error())

    def _take(self, key: str) -> bool:
        if self._free <= 0 or self._held[key] >= self._per_key(key):
            return False
        self._free -= 1
        self._held[key] += 1
        return True

    async def _wait(self, key: str) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = key
        try:
            await future
        except asyncio.CancelledError:
            self._waiting.pop(future, None)
            if future.done() and not future.cancelled() and future.exception() is None:
                self._release(key)  # granted and cancelled in the same moment
            raise

    def _release(self, key: str) -> None:
        self._free += 1
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        for future, wanted in list(self._waiting.items()):
            if self._free <= 0:
                return
            if future.done():
                continue  # cancelled, and about to leave
            if self._take(wanted):
                del self._waiting[future]
                future.set_result(None)
