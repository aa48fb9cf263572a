"""What the wall shows, kept up to date for all who look: one reader of Redis, however many they are.

Redis is asked only while somebody looks, and never for more than a tenth of the time. Each reader gets what
changed since its last message; a slow one gets more at once, and nothing piles up for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from worker.telemetry import log as logs

log = logs.get(__name__)

INTERVAL = 1.0  # seconds between two looks into Redis
SHARE = 10  # a look that took t is followed by a rest of SHARE × t at least


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """One cluster as the page shows it: `facts` are few numbers, `pictures` are large and change less."""

    facts: Mapping[str, Any]
    pictures: list[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What a look into Redis found."""

    taxonomy: str | None
    clusters: Mapping[int, Shown]


@dataclasses.dataclass(slots=True)
class _Row:
    shown: Shown
    facts_at: int
    pictures_at: int


class Board:
    """The newest reading, and when each part of it changed.

    Args:
        read: looks into Redis.
        interval: seconds from one look to the next.
    """

    def __init__(self, read: Callable[[], Awaitable[Reading]], interval: float = INTERVAL) -> None:
        self._read = read
        self._interval = interval
        self._rows: dict[int, _Row] = {}
        self._taxonomy: str | None = None
        self._whole_at = 0  # the version since which only parts have changed
        self._version = 0
        self._trouble: str | None = None
        self._looked = asyncio.Condition()
        self._watchers = 0
        self._wanted = asyncio.Event()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Redis is looked into while there is at least one of these."""
        self._watchers += 1
        self._wanted.set()
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._wanted.clear()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self._wanted.wait()
            started = time.monotonic()
            try:
                reading = await self._read()
            except Exception as error:  # Redis is away, or holds what no view has written
                self._fail(error)
                rest = self._interval
            else:
                self._take(reading)
                took = time.monotonic() - started
                rest = max(self._interval - took, SHARE * took)
            async with self._looked:
                self._looked.notify_all()
            await asyncio.sleep(rest)

    async def after(self, version: int) -> tuple[int, dict[str, Any]]:
        """What changed after `version` (0: all), as soon as there is something.

        Returns:
            The version that the receiver then knows, and the message.
        """
        async with self._looked:
            await self._looked.wait_for(lambda: self._version > version)
        return self._version, self._message(version)

    def _message(self, version: int) -> dict[str, Any]:
        whole = version < self._whole_at or not version
        clusters = []
        for row in self._rows.values():
            if whole or row.pictures_at > version:
                clusters.append({**row.shown.facts, "pictures": row.shown.pictures})
            elif row.facts_at > version:
                clusters.append(dict(row.shown.facts))
        return {"whole": whole, "taxonomy": self._taxonomy, "trouble": self._trouble, "clusters": clusters}

    def _fail(self, error: Exception) -> None:
        if self._trouble is None:
            log.warning("Redis cannot be read", error=f"{type(error).__name__}: {error}")
        trouble = f"Redis cannot be read ({type(error).__name__}); what is here is what was there before"
        if trouble != self._trouble:
            self._trouble = trouble
            self._version += 1

    def _take(self, reading: Reading) -> None:
        """Note what is new; `_version` rises if anything is."""
        now = self._version + 1
        changed = self._trouble is not None
        self._trouble = None
        if reading.taxonomy != self._taxonomy or not self._rows.keys() <= reading.clusters.keys():
            self._rows.clear()
            self._taxonomy, self._whole_at, changed = reading.taxonomy, now, True
        for number, shown in reading.clusters.items():
            row = self._rows.get(number)
            if row is None:
                self._rows[number], changed = _Row(shown, now, now), True
                continue
            if row.shown.facts != shown.facts:
                row.facts_at, changed = now, True
            if row.shown.pictures != shown.pictures:
                row.pictures_at, changed = now, True
            row.shown = shown
        if changed or not self._version:
            self._version = now
