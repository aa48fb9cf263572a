"""Waiting for what must happen, instead of sleeping for as long as it may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

PATIENCE = 240.0  # seconds that anything may take on a slow machine; a test that passes never waits so long
LOOK_AGAIN = 0.01, 0.1  # seconds at first, and later: looking costs whoever is looked at, too


def pause(waited: float) -> float:
    """Seconds until the next look, a twentieth of what it has taken so far."""
    first, longest = LOOK_AGAIN
    return min(longest, max(first, waited / 20))


def wait_for(what: str, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until `condition` holds, e.g. `wait_for("the server answers", ping)`.

    Raises:
        AssertionError: it did not within `seconds`.
    """
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited > seconds:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(pause(waited))


async def until(what: str, condition: Callable[[], Awaitable[object]], seconds: float = PATIENCE) -> None:
    """`wait_for` for coroutines: others run meanwhile."""
    began = time.monotonic()
    while not await condition():
        waited = time.monotonic() - began
        if waited > seconds:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(pause(waited))
