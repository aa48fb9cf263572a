"""Whether one image is encoded at a time, and which ones may kill: a poison record must not need an operator.

Decoders run in processes that may die. The encoder runs in the worker, and what kills it takes all that is in
flight with it, again and again. Commits say how many owners in a row died at the same position (see
`worker.kafka.offsets`). After SUSPECT_AFTER of them the next one is careful: it encodes one image at a time,
and before it encodes one of those that were in flight it writes that down in the retry topic. A record that
was written down DEATHS times, and was not taken back once, killed that many workers by itself.

Not in force, which is nearly always, all of this costs one comparison for each message of the fetchers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from worker.kafka.assignment import BegunPartition
from worker.messages.record import Record
from worker.tagger.in_flight import InFlight, Work
from worker.tagger.prediction import Ready
from worker.telemetry import log as logs

log = logs.get(__name__)

SUSPECT_AFTER = 2  # one death at a position is a crash or a deployment; two are a pattern
DEATHS = 3
KILLER = "{} workers died while it was encoded with nothing beside it"


class Encoding(Protocol):
    """Encode and predict, in threads of their own; see `worker.tagger.inference.Inference`."""

    def put(self, ready: Sequence[Ready]) -> None: ...
    @property
    def outstanding(self) -> int: ...


class PoisonGuard:
    """
    Args:
        write_down: publishes that a work is about to be encoded alone.
        safe: whether all that was published is safe.
        release: gives slots back.
        window: records above a position that may have been in flight.
    """

    def __init__(
        self,
        works: InFlight,
        inference: Encoding,
        *,
        write_down: Callable[[Work], None],
        safe: Callable[[], bool],
        release: Callable[[list[int]], None],
        window: int,
    ) -> None:
        self._works = works
        self._inference = inference
        self._write_down = write_down
        self._safe = safe
        self._release = release
        self._window = window
        self._ends: dict[int, int] = {}  # partition → the first offset that is above suspicion
        self._queue: deque[Ready] = deque()
        self._written_down: Ready | None = None

    @property
    def active(self) -> bool:
        """Whether pictures go through `add`; may be asked from any thread."""
        return bool(self._ends)

    @property
    def partitions(self) -> list[int]:
        return list(self._ends)

    def begin(self, begun: BegunPartition) -> None:
        """A partition is ours: has something in it killed its owners?"""
        named = any(pending.deaths for pending in begun.pending.items())
        if begun.deaths < SUSPECT_AFTER and not named:
            return
        self._ends[begun.partition] = begun.position + self._window
        log.warning(
            "owners of this partition died at the same position; its images are encoded one at a time",
            partition=begun.partition, offset=begun.position, deaths=begun.deaths,
        )  # fmt: skip

    def passed(self, partition: int, position: int) -> None:
        """The partition is done up to `position`, or, with a position above all, somebody else's."""
        if position >= self._ends.get(partition, position + 1):
            del self._ends[partition]
            if not self.active and self._queue:
                self._inference.put(list(self._queue))
                self._queue.clear()

    def _suspects(self, record: Record) -> bool:
        return record.offset < self._ends.get(record.partition, -1)

    def add(self, ready: Iterable[Ready]) -> None:
        """Decoded pictures, in the order in which they shall be encoded."""
        self._queue += ready

    def step(self) -> None:
        """Encode the next picture, when the encoder has none; a suspect is written down before."""
        if self._written_down is not None:
            if self._safe():
                ready, self._written_down = self._written_down, None
                self._encode(ready)
            return
        if not self._queue or self._inference.outstanding:
            return
        ready = self._queue.popleft()
        work = self._works.find(ready.token)
        if work is None:  # superseded, or of a partition that went
            self._release([ready.slot])
        elif self._suspects(work.record):
            work.deaths += 1  # unless it ends; then its record is taken back
            work.stored = True
            self._write_down(work)
            self._written_down = ready
        else:
            self._inference.put([ready])

    def _encode(self, ready: Ready) -> None:
        if self._works.find(ready.token) is None:  # it has ended meanwhile
            self._release([ready.slot])
        else:
            self._inference.put([ready])
