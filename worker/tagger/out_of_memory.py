"""Too little memory is nobody's fault: what even one image finds none for is tried again, later and later."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from imgclust.support.machine import is_out_of_memory
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics

log = logs.get(__name__)

T = TypeVar("T")
MEMORY_WAIT, MEMORY_WAIT_MAX = 0.5, 10.0  # seconds


class MemoryPatience:
    """Calls of one or many images that may find no memory.

    Args:
        pause: sleeps so many seconds; True: the stage is being stopped.
        rested: called with the stage's name after each pause, as waiting is no hang.
    """

    def __init__(
        self, metrics: Metrics, pause: Callable[[float], bool], rested: Callable[[str], None]
    ) -> None:
        self._metrics, self._pause, self._rested = metrics, pause, rested

    def count(self, error: Exception) -> bool:
        """Whether memory was short; if so it is counted."""
        short = is_out_of_memory(error)
        if short:
            self._metrics.out_of_memory.inc()
        return short

    def run(self, stage: str, images: int, call: Callable[[], T]) -> T | None:
        """What `call` returns, which for one image is tried until others leave it memory; None: stopped.

        Raises:
            Exception: what `call` raises, for want of memory too where it has several images.
        """
        wait = MEMORY_WAIT
        while True:
            try:
                return call()
            except Exception as error:
                if not self.count(error) or images > 1:
                    raise
                log.warning("no memory for one image; it is tried again", stage=stage, seconds=wait)
            if self._pause(wait):
                return None
            self._rested(stage)
            wait = min(2 * wait, MEMORY_WAIT_MAX)
