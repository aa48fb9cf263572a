"""A host that does not answer is left alone for a while, so that it costs the others nothing. Pure."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable

THRESHOLD = 8  # failures in a row: a burst of lost packets is shorter, a dead host reaches it in one time-out
FIRST_PAUSE, MAX_PAUSE = 2.0, 60.0  # seconds; each failed probe doubles it
MAX_HOSTS = 4096


@dataclasses.dataclass(slots=True, eq=False)
class _Host:
    failures: int = 0
    pause: float = FIRST_PAUSE
    closed_until: float = 0.0
    probing: bool = False


class Breaker:
    """Counts failures in a row to reach a host; HTTP errors are answers, not failures.

    After `THRESHOLD` of them the host is not asked for a pause, then one request probes it: an answer ends it
    all, a failure doubles the pause.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    def wait(self, host: str) -> float:
        """Seconds until the host may be asked; 0: now. Whoever gets 0 after a pause is the probe."""
        state = self._hosts.get(host)
        if state is None or state.failures < THRESHOLD:
            return 0.0
        now = self._clock()
        if now < state.closed_until:
            return state.closed_until - now
        state.probing = True
        state.closed_until = now + state.pause  # the others wait for the probe's result
        return 0.0

    def answered(self, host: str) -> None:
        self._hosts.pop(host, None)

    def failed(self, host: str) -> None:
        state = self._hosts.setdefault(host, _Host())
        self._hosts.move_to_end(host)
        if len(self._hosts) > MAX_HOSTS:
            self._hosts.popitem(last=False)
        state.failures += 1
        if state.failures == THRESHOLD:
            state.closed_until = self._clock() + state.pause
        elif state.probing:  # and not one of those that were under way when the pause began
            state.probing = False
            state.pause = min(2 * state.pause, MAX_PAUSE)
            state.closed_until = self._clock() + state.pause
