"""Slots for what may run at once, in total and for one key, handed out in the order of asking."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any


class Slots:
    """At most `total` slots are held at once, and of one key at most `per_key`.

    A key that is at its limit blocks nobody else: whoever asked first among those that may have a slot gets
    the next one.

    Args:
        total: at least 1.
        per_key: the limit of a key, at least 1; asked each time, so it may change.
    """

    def __init__(self, total: int, per_key: Callable[[Any], int]) -> None:
        self._free = total
        self._per_key = per_key
        self._held: Counter[Hashable] = Counter()
        self._waiting: dict[asyncio.Future[None], Hashable] = {}  # in the order of asking

    @asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncIterator[None]:
        """Wait for a slot, and keep it while the context lasts.

        Raises:
            Exception: what `refuse` was given for this key while it waited.
        """
        if not self.take(key):
            await self.wait(key)
        try:
            yield
        finally:
            self.release(key)

    def refuse(self, key: Hashable, error: Callable[[], Exception]) -> None:
        """End the waiting of all that ask for this key with an error."""
        for future in [future for future, wanted in self._waiting.items() if wanted == key]:
            del self._waiting[future]
            if not future.done():
                future.set_exception(error())

    def take(self, key: Hashable) -> bool:
        """A slot, if there is one now; `release` must follow."""
        if self._free <= 0 or self._held[key] >= self._per_key(key):
            return False
        self._free -= 1
        self._held[key] += 1
        return True

    async def wait(self, key: Hashable) -> None:
        """Wait for a slot; `release` must follow, but for an error, as in `hold`."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = key
        try:
            await future
        except asyncio.CancelledError:
            self._waiting.pop(future, None)
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(key)  # granted and cancelled in the same moment
            raise

    def release(self, key: Hashable) -> None:
        """Give a slot back, to the first that waits and may have it."""
        self._free += 1
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        for future, wanted in list(self._waiting.items()) if self._waiting else ():
            if self._free <= 0:
                return
            if future.done():
                continue  # cancelled, and about to leave
            if self.take(wanted):
                del self._waiting[future]
                future.set_result(None)
