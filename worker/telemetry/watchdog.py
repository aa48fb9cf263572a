"""Notices stages that stopped making progress, and ends the process so that another worker takes over.

A thread that hangs inside a driver or a library cannot be fixed from within; a process that is gone can be
replaced, and its uploads are done by whoever owns the partitions next.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Mapping

from worker.telemetry import log as logs

log = logs.get(__name__)

EXIT_STALLED = 4
PERIOD = 1.0


class Watchdog:
    """Looks once a second how long each stage has been without progress.

    Args:
        limit: seconds; a stage that exceeds them ends the process with exit code 4, after a dump of what each
            thread was doing on stderr.
        stages: name → seconds without progress although there is work; only busy stages are in it.
    """

    def __init__(
        self,
        limit: float,
        stages: Callable[[], Mapping[str, float]],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._limit = limit
        self._stages = stages
        self._end = end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD):
            if self.look():
                return

    def look(self) -> bool:
        """Whether a stage has stalled; if so, the end has been called."""
        for stage, seconds in self._stages().items():
            if seconds > self._limit:
                log.error("a stage makes no progress; exiting", stage=stage, seconds=round(seconds, 1))
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                self._end(EXIT_STALLED)
                return True
        return False


# Beyond the drain: fetchers take 5 s at most, the view 10, the group is left in between.
LEAVE_TIMEOUT = 20.0


def end_within(seconds: float, code: int, end: Callable[[int], object] = os._exit) -> threading.Timer:
    """End the process with `code` if it has not ended by itself until then.

    For a process that has committed all it will: nothing is lost by not saying goodbye, and an orchestrator
    would kill it anyway, later. Seen once in 100 orderly exits under faults: a client of Kafka that does not
    close.
    """

    def still_here() -> None:
        log.error("leaving takes too long; exiting", seconds=seconds, code=code)
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        end(code)

    timer = threading.Timer(seconds, still_here)
    timer.daemon = True
    timer.start()
    return timer
