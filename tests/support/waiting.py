"""Waiting for what must happen, instead of sleeping for as long as it may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

PATIENCE = 240.0  # seconds that anything may take on a slow machine; a test that passes never waits so long
LOOK_AGAIN = 0.01


def wait_for(what: str, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until `condition` holds, e.g. `wait_for("the server answers", ping)`.

    Raises:
        AssertionError: it did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(LOOK_AGAIN)


async def until(what: str, condition: Callable[[], Awaitable[object]], seconds: float = PATIENCE) -> None:
    """`wait_for` for coroutines: others run meanwhile."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(LOOK_AGAIN)
