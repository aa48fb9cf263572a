"""One fetcher of the pool, process after process: which jobs and slots it holds, and how it fails. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Set
from typing import Any

from worker.fetching.connection import FetcherLink
from worker.fetching.protocol import FetcherReport, FetchOutcome, Job, ProtocolError
from worker.fetching.quarantine import Quarantine

HEARTBEAT_TIMEOUT = 30.0  # seconds; the event loop of a fetcher turns every 0.5 s
FIRST_BACKOFF, MAX_BACKOFF = 0.5, 30.0  # seconds
# Messages cost more than what is in them: slots go back when a fetcher has no more than half of its own left.
RETURN = 1 / 2


@dataclasses.dataclass(slots=True, eq=False)
class FetcherState:
    """What the parent knows of one fetcher.

    Attributes:
        slots: of the ring, that only this fetcher's processes fill.
        quarantine: jobs to try with nothing else in the process, see `worker.fetching.quarantine`.
        ready: it has reported so, and is alive.
        deaths: of processes, since the last outcome.
        held: jobs that it has and that have not ended, by token.
        lent: slots whose pictures the consumer has not released.
    """

    index: int
    slots: range
    quarantine: Quarantine
    link: FetcherLink | None = None
    ready: bool = False
    deaths: int = 0
    start_at: float = 0.0
    blocked: bool = False  # the socket takes no more, and is asked when it does
    held: dict[int, Job] = dataclasses.field(default_factory=dict)
    lent: set[int] = dataclasses.field(default_factory=set)
    _forgotten: set[int] = dataclasses.field(default_factory=set)
    # for the next message
    _jobs: list[Job] = dataclasses.field(default_factory=list)
    _credit: list[int] = dataclasses.field(default_factory=list)
    _forget: list[int] = dataclasses.field(default_factory=list)
    # what the ring showed last, and since when
    _mark: int = 0
    _marked_at: float = 0.0
    _beats: int = 0
    _beat_at: float = 0.0

    # ── what it is sent ──────────────────────────────────────────────────────────────────────────────────

    def assign(self, job: Job) -> None:
        self.held[job.token] = job
        self._jobs.append(job)

    def slot_released(self, slot: int) -> None:
        """The consumer has read the picture in a slot."""
        if slot in self.lent:
            self.lent.remove(slot)
            self._credit.append(slot)

    def forget(self, tokens: Set[int]) -> None:
        affected = tokens & self.held.keys()
        self._forgotten |= affected
        self._forget.extend(affected)
        self.quarantine.forget(tokens)

    @property
    def cancelling(self) -> int:
        return len(self._forgotten)

    def next_message(self) -> dict[str, Any] | None:
        """The next message, if one is due."""
        can_fill = len(self.slots) - len(self.lent) - len(self._credit)
        short = bool(self._credit) and can_fill <= len(self.slots) * RETURN
        if not (self._jobs or self._forget or short):
            return None
        message = {
            "jobs": [(job.token, job.url) for job in self._jobs],
            "release": self._credit,
            "forget": self._forget,
        }
        self._jobs, self._credit, self._forget = [], [], []
        return message

    # ── what it reports ────────────────────────────────────────────────────────────────────────────────────

    def apply(self, report: FetcherReport) -> tuple[list[Job], list[FetchOutcome]]:
        """Apply a report.

        Returns:
            The jobs that have ended, and the outcomes that somebody still wants.

        Raises:
            ProtocolError: an outcome of a job that it does not hold, or in a slot that is not its own or not
                free. Nothing of the report counts then.
        """
        self.ready |= report.ready
        filled = [outcome.slot for outcome in report.decoded]
        if len(set(filled)) != len(filled) or any(s not in self.slots or s in self.lent for s in filled):
            raise ProtocolError("a slot that is not its own, or not free")
        outcomes: list[FetchOutcome] = [*report.decoded, *report.failed]
        tokens = {outcome.token for outcome in outcomes}
        if len(tokens) != len(outcomes) or not tokens <= self.held.keys():
            raise ProtocolError("a job that it does not hold")
        if not outcomes:
            return [], []
        self.deaths = 0
        self.lent.update(filled)
        ended = [self.held.pop(token) for token in tokens]
        if unwanted := self._forgotten & tokens:
            self._forgotten -= unwanted
            for outcome in report.decoded:
                if outcome.token in unwanted:
                    self.slot_released(outcome.slot)
            outcomes = [outcome for outcome in outcomes if outcome.token not in unwanted]
        return ended, outcomes

    # ── how it lives and dies ────────────────────────────────────────────────────────────────────────────

    def begin(self, now: float, beats: int) -> list[int]:
        """A new process; returns the slots that it may fill."""
        self._mark, self._beats, self._beat_at = 0, beats, now
        self.blocked = False
        self._credit.clear()
        return [slot for slot in self.slots if slot not in self.lent]

    def overdue(self, now: float, mark: int, beats: int, decode_timeout: float) -> str:
        """Why it has to be replaced; empty: it need not.

        Time is taken by our own clock, from when we first saw a mark or a heartbeat.
        """
        if mark != self._mark:
            self._mark, self._marked_at = mark, now
        if beats != self._beats:
            self._beats, self._beat_at = beats, now
        if mark and now - self._marked_at > decode_timeout:
            return f"it decoded one image for more than {decode_timeout:g} s"
        if now - self._beat_at > HEARTBEAT_TIMEOUT + decode_timeout:
            return "it gave no sign of life"
        return ""

    def lost(self, mark: int) -> tuple[list[Job], list[Job], list[Job]]:
        """The process is gone.

        Returns:
            All that it held; of these, what may be tried again as if nothing had happened; what is given up.
        """
        held = list(self.held.values())
        wanted = [job for job in held if job.token not in self._forgotten]
        self.held.clear()
        self._forgotten.clear()
        self._jobs, self._forget = [], []
        again, given_up = self.quarantine.lost(wanted, mark)
        return held, again, given_up

    def back_off(self, now: float) -> float:
        """Start the next one: at once, or later and later while none achieves anything; seconds."""
        self.ready = False
        self.deaths += 1
        wait = 0.0 if self.deaths <= 2 else min(FIRST_BACKOFF * 2 ** (self.deaths - 3), MAX_BACKOFF)
        self.start_at = now + wait
        return wait
