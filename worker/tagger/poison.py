"""Whether one image is encoded at a time, and which ones may kill: a poison record must not need an operator.

Decoders run in processes that may die. The encoder runs in the worker, and what kills it takes all that is in
flight with it, again and again. Commits say how many owners in a row died at the same position (see
`worker.kafka.offsets`). After SUSPECT_AFTER of them the next one is careful: it encodes one image at a time,
and
before it encodes one of those that were in flight it writes that down in the retry topic. A record that was
written down DEATHS times, and was not taken back once, killed that many workers by itself.

Not in force, which is nearly always, all of this costs one comparison for each message of the fetchers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from worker.kafka.assignment import BegunPartition
from worker.messages.record import Record
from worker.tagger.prediction import Ready
from worker.telemetry import log as logs

log = logs.get(__name__)

SUSPECT_AFTER = 2  # one death at a position is a crash or a deployment; two are a pattern
DEATHS = 3


class PoisonGuard:
    """
    Args:
        encode: sends decoded pictures to the encoder.
        encoding: how many it has.
        window: records above a position that may have been in flight.
    """

    def __init__(
        self, encode: Callable[[Sequence[Ready]], None], encoding: Callable[[], int], window: int
    ) -> None:
        self._encode = encode
        self._encoding = encoding
        self._window = window
        self._ends: dict[int, int] = {}  # partition → the first offset that is above suspicion
        self._queue: deque[Ready] = deque()

    @property
    def active(self) -> bool:
        """Whether pictures go through `add`; may be asked from any thread."""
        return bool(self._ends)

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
                self._encode(list(self._queue))
                self._queue.clear()

    def suspects(self, record: Record) -> bool:
        return record.offset < self._ends.get(record.partition, -1)

    @property
    def partitions(self) -> list[int]:
        return list(self._ends)

    def add(self, ready: Iterable[Ready]) -> None:
        """Decoded pictures, in the order in which they shall be encoded."""
        self._queue += ready

    def next(self) -> Ready | None:
        """The next picture, when the encoder has none."""
        return self._queue.popleft() if self._queue and not self._encoding() else None
