"""Time limits of many fetches at once: one timer for all of them, instead of several for each.

Four limits for each fetch (no answer, silence, too slow, too long) would be a dozen timers, set and cancelled
for each image: a fifth of the processor time that fetching takes. Here a fetch notes what happened when, and
a sweep every `SWEEP` seconds ends those that are overdue.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable

from imgclust.fetching.urls import FetchPolicy

SWEEP = 0.1  # seconds: what a limit may be exceeded by


@dataclasses.dataclass(slots=True, eq=False)
class Watch:
    """One fetch under way.

    Attributes:
        timeout: asyncio's, without a time of its own; the sweep sets it off.
        started: on the clock, in seconds.
        heard: when the server was asked or last sent something; infinite while nothing is expected of it.
        body_since: when the body began, None before.
        size: bytes of the body so far.
        queue: which queue of our own it waits in; empty: in none. Its host is not to blame then.
        overdue: why it was ended, once it was.
    """

    timeout: asyncio.Timeout
    started: float
    heard: float = math.inf
    body_since: float | None = None
    size: int = 0
    queue: str = ""
    overdue: str = ""

    def judge(self, now: float, policy: FetchPolicy) -> str:
        """Which limit is exceeded, in words; empty: none."""
        if now - self.started > policy.total_timeout:
            where = f", while it waited for {self.queue}" if self.queue else ""
            return f"not finished within {policy.total_timeout:g} s{where}"
        silence = now - self.heard
        if self.body_since is None:
            head = _head(policy)
            return f"no answer within {head:g} s" if silence > head else ""
        if silence > policy.first_byte_timeout:
            return f"the server was silent for {policy.first_byte_timeout:g} s"
        seconds = now - self.body_since
        if seconds > policy.rate_grace and self.size < policy.min_rate * seconds:
            return (
                f"{self.size} bytes in {seconds:.1f} s is below the minimum rate, {policy.min_rate:g} bytes/s"
            )
        return ""

    def blames(self, now: float, policy: FetchPolicy) -> bool:
        """Whether a host that has not answered had the time for it: what our queues took is not its fault."""
        return now - self.heard >= 0.9 * min(_head(policy), policy.total_timeout)


def _head(policy: FetchPolicy) -> float:
    return policy.connect_timeout + policy.first_byte_timeout


class Deadlines:
    """The fetches under way, and the sweep that ends the overdue ones with a TimeoutError inside of them."""

    def __init__(self, policy: FetchPolicy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._watches: set[Watch] = set()
        self._sweeper: asyncio.Task[None] | None = None

    def add(self, watch: Watch) -> None:
        self._watches.add(watch)

    def remove(self, watch: Watch) -> None:
        self._watches.discard(watch)

    def start(self) -> None:
        self._sweeper = asyncio.create_task(self._sweep())

    def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP)
            now = self._clock()
            for watch in self._watches:
                if not watch.overdue and (reason := watch.judge(now, self._policy)):
                    watch.overdue = reason
                    watch.timeout.reschedule(loop.time())
