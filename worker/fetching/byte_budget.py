"""Bounds the bytes of bodies that a fetcher process holds, or has promised to its downloads, at once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque


@dataclasses.dataclass(slots=True, eq=False)
class Item:
    """A job on its way through this process."""

    token: int
    url: str
    host: str
    task: asyncio.Task[None] | None = None
    forgotten: bool = False
    data: bytes = b""
    reserved: int = 0
    fetch_seconds: float = 0.0


class ByteBudget:
    """How many bytes of bodies may be held at once. First come, first served; never stuck on a large one."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def reserve(self, item: Item, size: int) -> None:
        if self._waiting or not self._fits(size):
            granted = asyncio.get_running_loop().create_future()
            self._waiting.append((size, granted))
            try:
                await granted
            except asyncio.CancelledError:
                if granted.done() and not granted.cancelled():
                    self._release(size)  # granted and cancelled in the same moment
                raise
        else:
            self._held += size
        item.reserved += size

    def release(self, item: Item) -> None:
        size, item.reserved = item.reserved, 0
        self._release(size)

    def _fits(self, size: int) -> bool:
        return self._held == 0 or self._held + size <= self._total

    def _release(self, size: int) -> None:
        self._held -= size
        while self._waiting and (self._waiting[0][1].done() or self._fits(self._waiting[0][0])):
            wanted, granted = self._waiting.popleft()
            if not granted.done():
                self._held += wanted
                granted.set_result(None)
