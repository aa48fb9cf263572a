"""What failed and may yet succeed: how often it is tried, when, and what waits for it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

from worker.fetching.protocol import Failed
from worker.kafka.pending_retries import NOT_FOUND_GRACE_MS, PendingRetries, delay
from worker.kafka.retry_changelog import Pending
from worker.messages.record import Record
from worker.settings.values import RetryLimits
from worker.tagger.in_flight import Work
from worker.telemetry.metrics import Metrics

# Pending retries of one worker, and bytes of their values. At so many, or so much, it takes nothing new in
# until some have ended. One takes about 0.65 kB beside its value, which may have 64 KiB.
MOST = 1_000_000
MOST_BYTES = 512 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Tries of a transient failure; the first and the longest delay, in seconds."""

    limit: RetryLimits
    first: float
    longest: float


class Retrying:
    """The pending retries of the partitions that are owned.

    Args:
        clock: monotonic seconds.
        wall_ms: milliseconds since the epoch.
        spread: uniform in 0..1, for each delay.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._wall_ms = wall_ms
        self._spread = spread
        self._partitions: dict[int, PendingRetries[Pending]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._partitions.values()))

    @property
    def full(self) -> bool:
        """Whether no more can be remembered."""
        return len(self) >= MOST or sum(p.nbytes for p in self._partitions.values()) >= MOST_BYTES

    def now_ms(self) -> int:
        return self._wall_ms()

    def begin(self, partition: int, pending: PendingRetries[Pending]) -> None:
        """A partition is ours, with what waits in it."""
        self._partitions[partition] = pending

    def leave(self, partition: int) -> None:
        self._partitions.pop(partition, None)

    def wait_for(self, work: Work, failure: Failed) -> float | None:
        """Seconds until `work` is tried again; None when it is not."""
        policy = self._policy
        age = self._wall_ms() - work.upload.uploaded_at
        too_old = failure.code == "not-found" and age > NOT_FOUND_GRACE_MS
        if not failure.transient or too_old or work.attempts >= policy.limit.of(failure.code):
            return None
        return delay(work.attempts, policy.first, policy.longest, self._spread(), failure.retry_after)

    def add(self, work: Work, record: Record, wait: float) -> int:
        """`work` waits; returns when it is due, in milliseconds since the epoch."""
        not_before = self._wall_ms() + int(wait * 1000)
        pending = Pending(dataclasses.replace(record, handed_over=True), work.attempts, not_before)
        self._partitions[record.partition].add(
            work.upload.id, pending, self._clock() + wait, record.timestamp, len(record.value or b"")
        )
        return not_before

    def remove(self, partition: int, upload_id: str) -> Pending | None:
        retries = self._partitions.get(partition)
        return retries.remove(upload_id) if retries else None

    def due(self) -> int:
        """How many could be tried now."""
        now = self._clock()
        return sum(pending.due(now) for pending in self._partitions.values())

    def take_due(self, limit: int) -> list[Pending]:
        """At most `limit` whose time has come; they no longer wait."""
        now = self._clock()
        taken: list[Pending] = []
        for retries in self._partitions.values():
            taken += retries.take_due(now, max(0, limit - len(taken)))
        return taken

    def report(self, metrics: Metrics) -> None:
        oldest = min(
            (o for o in (r.oldest() for r in self._partitions.values()) if o is not None), default=None
        )
        metrics.retries_pending.set(len(self))
        metrics.retries_due.set(self.due())
        metrics.retries_oldest.set(0.0 if oldest is None else max(0.0, (self._wall_ms() - oldest) / 1000))
