"""Gauges that need a memory: a share and the longest pause of the last seconds, a standstill, how late a
reader is."""

from __future__ import annotations

import collections
import math
import threading
from collections.abc import Callable


class Window:
    """Sums over the last seconds, in steps of a thirtieth of the window."""

    STEPS = 30

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._step = seconds / self.STEPS
        self._clock = clock
        self._lock = threading.Lock()
        self._slots: collections.deque[list[int]] = collections.deque()  # [step number, part, whole]

    def add(self, part: int, whole: int) -> None:
        now = int(self._clock() // self._step)
        with self._lock:
            if not self._slots or self._slots[-1][0] != now:
                self._slots.append([now, 0, 0])
                self._forget(now)
            self._slots[-1][1] += part
            self._slots[-1][2] += whole

    def ratio(self) -> float:
        with self._lock:
            self._forget(int(self._clock() // self._step))
            whole = sum(slot[2] for slot in self._slots)
            return sum(slot[1] for slot in self._slots) / whole if whole else math.nan

    def _forget(self, now: int) -> None:
        while self._slots and self._slots[0][0] <= now - self.STEPS:
            self._slots.popleft()


class LongestPause:
    """The longest time between two beats that ended in the last seconds, or that goes on now."""

    STEPS = 30

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._step = seconds / self.STEPS
        self._clock = clock
        self._lock = threading.Lock()
        self._last = math.nan
        self._slots: collections.deque[tuple[int, float]] = collections.deque()  # (step number, longest)

    def beat(self) -> None:
        now = self._clock()
        step, pause = int(now // self._step), now - self._last
        with self._lock:
            self._last = now
            if self._slots and self._slots[-1][0] == step:
                pause = max(pause, self._slots.pop()[1])
            if not math.isnan(pause):
                self._slots.append((step, pause))
            while self._slots and self._slots[0][0] <= step - self.STEPS:
                self._slots.popleft()

    def seconds(self) -> float:
        """NaN before the first beat."""
        now = self._clock()
        oldest = int(now // self._step) - self.STEPS
        with self._lock:
            return max([now - self._last, *(pause for step, pause in self._slots if step > oldest)])


class Standstill:
    """For how long a number of things that wait has not gone down."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = 0
        self._since = clock()

    def seconds(self, waiting: int) -> float:
        """0 when nothing waits. To be asked often."""
        now = self._clock()
        if waiting < self._last or not waiting or not self._last:
            self._since = now
        self._last = waiting
        return now - self._since


class Lateness:
    """How long the oldest unread record of a partition has waited, at most. Times are ms since the epoch.

    It came after the record before it, and after the partition's end was last seen. So a record that comes
    into a partition which was silent for an hour has not waited for an hour.

    Attributes:
        read: timestamp of the record that was read last.
    """

    def __init__(self, assigned: int) -> None:
        self._assigned = assigned
        self._caught_up = 0
        self.read = 0

    def seconds(self, now: int, unread: int) -> float:
        """0 when nothing is unread."""
        if not unread:
            self._caught_up = now
            return 0.0
        since = max(self.read, self._caught_up) or self._assigned
        return max(0, now - since) / 1000
