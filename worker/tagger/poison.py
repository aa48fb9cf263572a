"""A record that kills the worker must not need an operator: who is suspected is encoded alone.

Decoders run in processes that may die. The encoder runs in the worker, and what kills it takes all that is in
flight with it, again and again. So before the first picture of a partition is encoded, a commit says that its
owner has begun to encode at this position (`worker.kafka.offsets`: lives). The next owner, should this one
die before the position has moved, takes in only a few records beyond it, and the one after that, when there
were SUSPECT_AFTER deaths, suspects exactly those, and what was due for another try. So does every owner after
it, until the position has passed them.

A suspect is written down in the retry topic, and encoded with nothing beside it; until its note is taken back
nothing else is encoded. A record that was written down DEATHS times, and was not taken back once, killed that
many workers by itself. Everybody else is encoded as always, between two suspects.

Not in force, which is nearly always, all of this costs a look at a set for each picture.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from worker.kafka.assignment import BegunPartition
from worker.kafka.offsets import SUSPECT_AFTER
from worker.tagger.in_flight import InFlight, Work
from worker.tagger.parts import Encoding
from worker.tagger.prediction import Ready
from worker.telemetry import log as logs

log = logs.get(__name__)

DEATHS = 3
KILLER = "{} workers died while it was encoded alone"


class Marks(Protocol):
    """Commits that say that a partition's owner encodes; `UploadsConsumer`."""

    def encoding(self, partition: int) -> None: ...
    def is_encoding_known(self, partition: int) -> bool: ...


class Trial(enum.Enum):
    """What a suspect waits for."""

    ENCODER = "the encoder to be empty"
    NOTE = "its note to be safe"
    OUTCOME = "its outcome, with nothing beside it"
    END = "its end to be safe, and the note to be gone with it"


class PoisonGuard:
    """Lets pictures through to the encoder.

    Args:
        works: on their way.
        marks: see `Marks`.
        write_down: publishes that a work is about to be encoded alone, and calls back when that is safe.
        release: gives slots back.
        now_ms: milliseconds since the epoch.
    """

    def __init__(
        self,
        works: InFlight,
        inference: Encoding,
        marks: Marks,
        *,
        write_down: Callable[[Work, Callable[[], None]], None],
        release: Callable[[list[int]], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._works = works
        self._inference = inference
        self._marks = marks
        self._write_down = write_down
        self._release = release
        self._now_ms = now_ms
        self._known: set[int] = set()  # partitions of which commits say that they are encoded
        # partition → suspects: offsets below, and retries that were due at a time
        self._suspected: dict[int, tuple[int, int]] = {}
        self._waiting: deque[Ready] = deque()  # for a commit, or for the end of a trial
        self._suspects: deque[Ready] = deque()
        self._trial: Ready | None = None
        self._trial_partition = -1
        self._state = Trial.ENCODER

    # ── partitions ───────────────────────────────────────────────────────────────────────────────────────

    def begin(self, begun: BegunPartition) -> None:
        """A partition is ours: has something in it killed its owners?"""
        self.leave(begun.partition)
        if begun.deaths < SUSPECT_AFTER:
            return
        self._suspected[begun.partition] = begun.suspects_end, self._now_ms()
        log.warning(
            "owners of this partition died while they encoded; what they had in flight is encoded alone",
            partition=begun.partition, first=begun.position, end=begun.suspects_end, deaths=begun.deaths,
        )  # fmt: skip

    def leave(self, partition: int) -> None:
        """It is somebody else's; its works have been abandoned, and results that were not safe dropped."""
        self._known.discard(partition)
        self._suspected.pop(partition, None)
        if self._state in (Trial.OUTCOME, Trial.END) and self._trial_partition == partition:
            self._trial = None  # if its work has ended, nobody will say any more that the end is safe

    def _suspects_work(self, work: Work) -> bool:
        if work.deaths:
            return True
        end, due = self._suspected.get(work.record.partition, (-1, -math.inf))
        if work.stored:  # its offset is of long ago
            return work.not_before <= due
        return work.record.offset < end

    # ── pictures ─────────────────────────────────────────────────────────────────────────────────────────

    def passes(self, work: Work) -> bool:
        """Whether a picture may go straight to the encoder; may be asked from any thread."""
        return self._trial is None and work.record.partition in self._known and not self._suspects_work(work)

    def add(self, ready: Iterable[Ready]) -> None:
        """Pictures that did not pass, in the order in which they shall be encoded."""
        self._waiting += ready

    def step(self) -> None:
        """Let through what may go by now; go on with a trial, or begin the next one."""
        if self._trial is not None:
            self._go_on(self._trial)
        if self._trial is None:
            waiting, self._waiting = self._waiting, deque()
            self._sort(waiting)
            if self._suspects:
                self._trial, self._state = self._suspects.popleft(), Trial.ENCODER
                self._go_on(self._trial)

    def _sort(self, waiting: Iterable[Ready]) -> None:
        passing, unwanted = [], []
        for ready in waiting:
            work = self._works.find(ready.token)
            if work is None:  # superseded, or of a partition that went
                unwanted.append(ready.slot)
            elif self._suspects_work(work):
                self._suspects.append(ready)
            elif self._is_known(work.record.partition):
                passing.append(ready)
            else:
                self._waiting.append(ready)
        if passing:
            self._inference.put(passing)
        if unwanted:
            self._release(unwanted)

    def _is_known(self, partition: int) -> bool:
        if partition not in self._known:
            self._marks.encoding(partition)
            if self._marks.is_encoding_known(partition):
                self._known.add(partition)
        return partition in self._known

    # ── trials ───────────────────────────────────────────────────────────────────────────────────────────

    def _go_on(self, ready: Ready) -> None:
        work = self._works.find(ready.token)
        if self._state is Trial.ENCODER:
            if work is None:  # it has ended meanwhile
                self._release([ready.slot])
                self._trial = None
            elif not self._inference.outstanding:
                self._write(ready, work)
        elif self._state is Trial.OUTCOME and not self._inference.outstanding:
            self._state = Trial.END

    def _write(self, ready: Ready, work: Work) -> None:
        """Write the note, and go on when it is safe, and again when the end is."""
        self._trial_partition = work.record.partition
        work.deaths += 1  # unless it ends; then its record is taken back
        work.stored = True

        def noted() -> None:
            if self._trial is ready and self._works.find(ready.token) is work:
                self._state = Trial.OUTCOME
                self._inference.put([ready])

        def ended() -> None:
            if self._trial is ready:
                self._trial = None
                if self._state is Trial.NOTE:
                    self._release([ready.slot])

        self._state = Trial.NOTE
        work.on_end = ended
        self._write_down(work, noted)
