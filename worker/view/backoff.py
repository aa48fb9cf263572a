"""Waiting for a Redis that is in trouble, longer each time."""

from __future__ import annotations

import random
from collections.abc import Callable

from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics
from worker.view.client import RedisTrouble

log = logs.get(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # seconds between attempts


class Backoff:
    """Whether Redis is in trouble, since when, and when it is tried again."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics, self._clock = metrics, clock
        self._failures = 0
        self._since = self._again_at = 0.0

    @property
    def waiting(self) -> bool:
        return self._failures > 0

    @property
    def seconds(self) -> float:
        """For how long it has been in trouble."""
        return self._clock() - self._since if self._failures else 0.0

    @property
    def left(self) -> float:
        """Seconds until the next attempt."""
        return max(0.0, self._again_at - self._clock()) if self._failures else 0.0

    def failed(self, error: RedisTrouble) -> None:
        if not self._failures:
            self._since = self._clock()
        self._failures += 1
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(self._failures - 1, 16))
        delay *= random.uniform(0.5, 1.0)  # noqa: S311 - spreads attempts, keeps no secret
        self._again_at = self._clock() + delay
        self._metrics.view_errors[error.kind].inc()
        self._metrics.view_redis_up.set(0)
        log.warning("the view waits for Redis", kind=error.kind, reason=str(error), failures=self._failures)

    def succeeded(self) -> None:
        if self._failures:
            log.info("Redis takes the view again", failures=self._failures)
        self._failures = 0
        self._metrics.view_redis_up.set(1)
