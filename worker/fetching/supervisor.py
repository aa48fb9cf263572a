"""The fetcher processes' lives: started, read from and written to, watched, replaced, ended. One thread's."""

from __future__ import annotations

import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from worker.fetching.connection import FetcherLink, LinkLostError
from worker.fetching.fetcher_state import FetcherState
from worker.fetching.protocol import FetchOutcome, Job, ProtocolError, read_report
from worker.fetching.shared_slots import SharedSlots
from worker.telemetry import log as logs

log = logs.get(__name__)

TICK = 0.25  # seconds between two looks at marks, heartbeats and dead processes


def _both_ends(text: str, limit: int = 400) -> str:
    """A crash is named at the start of what is written, an exception at the end."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"


class Supervisor:
    """Keeps a process running for each fetcher.

    Args:
        fetchers: whose processes these are.
        ring: of slots and marks.
        selector: the fetchers' sockets are registered there, each with its `FetcherState`.
        config: of every process, see `worker.fetching.process.Config`.
        environment: see `imgclust.support.confined.environment`.
        decode_timeout: seconds for one image.
        on_report: gets the jobs that have ended, and their outcomes.
        on_lost: gets, when a process is gone, the jobs that it held; of these, what may be tried again; what
            is given up.
        clock: monotonic seconds.

    Attributes:
        check_at: when `check` is due.
        restarts: processes that were lost.
    """

    def __init__(
        self,
        fetchers: Sequence[FetcherState],
        ring: SharedSlots,
        selector: selectors.BaseSelector,
        config: dict[str, Any],
        *,
        environment: str,
        decode_timeout: float,
        on_report: Callable[[list[Job], list[FetchOutcome]], None],
        on_lost: Callable[[list[Job], list[Job], list[Job]], None],
        clock: Callable[[], float],
    ) -> None:
        self._fetchers, self._ring, self._selector = fetchers, ring, selector
        self._config, self._environment, self._decode_timeout = config, environment, decode_timeout
        self._on_report, self._on_lost, self._clock = on_report, on_lost, clock
        self._dying: list[subprocess.Popen[bytes]] = []
        self.check_at = clock()
        self.restarts = 0

    def exchange(self, fetcher: FetcherState, events: int) -> None:
        """Read and write, as far as either is possible without waiting."""
        link = fetcher.link
        if link is None:
            return
        try:
            if events & selectors.EVENT_READ:
                for line in link.receive():
                    self._on_report(*fetcher.apply(read_report(line)))
            if events & selectors.EVENT_WRITE:
                link.send()
        except LinkLostError as error:
            self._lose(fetcher, str(error))
            return
        except ProtocolError as error:
            self._lose(fetcher, f"it breaks the protocol ({error})")
            return
        if link.waiting != fetcher.blocked:
            fetcher.blocked = link.waiting
            write = selectors.EVENT_WRITE if fetcher.blocked else 0
            self._selector.modify(link.channel, selectors.EVENT_READ | write, fetcher)

    def check(self, now: float) -> None:
        """Look at marks, heartbeats and dead processes, and start those that are due."""
        self.check_at = now + TICK
        for fetcher in self._fetchers:
            if fetcher.link is not None:
                self._check(fetcher, now)
            elif now >= fetcher.start_at:
                self._start(fetcher, now)
        self._dying = [process for process in self._dying if process.poll() is None]

    def _check(self, fetcher: FetcherState, now: float) -> None:
        if fetcher.link is not None and (text := fetcher.link.read_stderr()):
            log.info("a fetcher process writes", fetcher=fetcher.index, text=text)
        mark, beats = self._ring.marked(fetcher.index), self._ring.beats(fetcher.index)
        if why := fetcher.overdue(now, mark, beats, self._decode_timeout):
            self._lose(fetcher, why)

    def _start(self, fetcher: FetcherState, now: float) -> None:
        self._ring.mark(fetcher.index, 0)
        free = fetcher.begin(now, self._ring.beats(fetcher.index))
        try:
            config = {**self._config, "index": fetcher.index, "free": free}
            fetcher.link = FetcherLink(config, self._ring.file, also=self._environment)
        except OSError as error:
            self._replace(fetcher, f"it cannot be started: {error.strerror}")
            return
        self._selector.register(fetcher.link.channel, selectors.EVENT_READ, fetcher)
        self.exchange(fetcher, selectors.EVENT_WRITE)

    def _lose(self, fetcher: FetcherState, why: str) -> None:
        """A process is gone, or has to be: what it held is tried again, and it is replaced."""
        assert fetcher.link is not None
        self._selector.unregister(fetcher.link.channel)
        stderr_tail = fetcher.link.stderr_tail()
        fetcher.link.kill()
        self._dying.append(fetcher.link.process)
        fetcher.link = None
        self.restarts += 1
        self._on_lost(*fetcher.lost(self._ring.marked(fetcher.index)))
        self._replace(fetcher, why, stderr_tail)

    def _replace(self, fetcher: FetcherState, why: str, stderr_tail: str = "") -> None:
        started = fetcher.ready
        wait = fetcher.back_off(self._clock())
        self.check_at = min(self.check_at, fetcher.start_at)
        report = log.warning if started and fetcher.deaths <= 2 else log.error
        report(
            "a fetcher process is replaced" if started else "a fetcher process does not start",
            fetcher=fetcher.index, why=why, deaths_in_a_row=fetcher.deaths, starts_in=wait,
            suspects=len(fetcher.quarantine), stderr=_both_ends(stderr_tail),
        )  # fmt: skip

    def end_all(self, timeout: float) -> None:
        """Close the sockets, which ends honest fetchers; kill the others."""
        processes = self._dying
        for fetcher in self._fetchers:
            fetcher.ready = False
            if fetcher.link is not None:
                fetcher.link.close()
                processes.append(fetcher.link.process)
        deadline = time.monotonic() + timeout
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        for process in processes:
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                log.error("a fetcher process does not end, although it was killed", pid=process.pid)
