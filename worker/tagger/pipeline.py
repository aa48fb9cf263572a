"""The way of an upload, in order, on one screen.

    consume → fetch, decode → encode → predict → publish

`run_once` is one round of it, on the thread that owns Kafka. Fetching and decoding happen in processes of
their own, encoding and predicting in threads of their own; what they have done comes back through `_inbox`.
Every upload that is taken in ends exactly once: as a tag, a delete, a dead letter, or superseded. One that is
to be tried again is handed over to the retry topic: its offset is done, and its record there stays until it
has ended.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from worker.errors import Rejected
from worker.fetching.protocol import Decoded, Failed, FetchOutcome, Job
from worker.kafka.assignment import BegunPartition
from worker.kafka.delivery import REVOKE_COMMIT
from worker.kafka.retry_changelog import Pending
from worker.messages.record import Record
from worker.messages.upload import Upload
from worker.tagger.endings import Endings
from worker.tagger.in_flight import InFlight, Work
from worker.tagger.pacing import BUSY_WAIT, Pacing
from worker.tagger.parts import Connect, PipelineParts, PipelinePolicy
from worker.tagger.poison import DEATHS, KILLER, PoisonGuard
from worker.tagger.prediction import InferenceOutcome, Predicted, Ready, Unencodable
from worker.tagger.replays import ReplayGuard
from worker.tagger.results import Reason
from worker.tagger.stages import StageMetrics
from worker.telemetry.metrics import Metrics
from worker.telemetry.tracing import Tracing, UploadTrace

SKIPPED = Reason("encode-failed", "consume", "named by WORKER_SKIP: not tried")

# What is in flight for partitions that are revoked is finished, if it can be within this; the rest is dropped
# and done by the next owner. The group waits meanwhile, so it is short: most images take less.
REVOKE_FINISH = 1.0  # seconds
REPORT_EVERY = 1.0


class Pipeline:
    """Takes uploads in, sends them on their way, publishes what comes back.

    Args:
        connect: makes the consumer, which calls back when a partition has begun and when some go, and what
            publishes and commits.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        policy: PipelinePolicy,
        connect: Connect,
        parts: PipelineParts,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], None] = time.sleep,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self._policy = policy
        self._intake = parts.intake
        self._fetchers = parts.fetchers
        self._inference = parts.inference
        self._retrying = parts.retrying
        self._clock = clock
        self._sleep = sleep
        self._metrics = metrics
        self._tracing = tracing
        self._stages = StageMetrics(metrics, tracing)
        self._works = InFlight()
        self._inbox: deque[Sequence[Failed | InferenceOutcome | Ready]] = deque()  # filled by other threads
        self._pacing = Pacing(policy.max_in_flight, clock, policy.fill, sleep)
        self._consumer, self._delivery = connect(self._begun, self._leaving)
        self._endings = Endings(
            self._works, parts.results, parts.retrying, self._consumer, self._delivery,
            metrics=metrics, tracing=tracing,
        )  # fmt: skip
        self._delivery.on_refused = self._endings.refused
        self._replays = ReplayGuard(self._endings)
        self._guard = PoisonGuard(
            self._works, parts.inference, self._consumer, write_down=self._endings.write_down,
            release=parts.fetchers.release, now_ms=parts.retrying.now_ms,
        )  # fmt: skip
        self._report_at = clock()

    # ── the chain ────────────────────────────────────────────────────────────────────────────────────────

    def run_once(self) -> None:
        """One round of the loop; waits a moment when there is nothing to do."""
        self._look()
        records = self._pacing.read(self._consumer, self._retrying.due(), busy=self._busy)
        self._delivery.run_once()  # right after the poll: see `UploadsConsumer.snapshot`
        self._consume(records)
        self._try_again()
        self._collect()
        self._cancel()
        self._guard.step()
        self._report()

    @property
    def _busy(self) -> bool:
        return bool(len(self._works) or self._inbox or self._delivery.waiting)

    def _look(self) -> None:
        """At all that takes room; a fetch that is being cancelled does until it has ended."""
        load = self.in_flight + self._fetchers.cancelling
        nbytes = self._works.nbytes + self._delivery.waiting_bytes
        self._pacing.look(load, nbytes, full=self._retrying.full)

    # ── consume ──────────────────────────────────────────────────────────────────────────────────────────

    def _consume(self, records: Sequence[Record]) -> None:
        """Records → works on their way to the fetchers; what is no upload, or a deletion, ends here."""
        if not records:
            return
        consume = self._metrics.stages["consume"]
        consume.enter(len(records))
        started = [work for record in records if (work := self._take(record)) is not None]
        consume.leave(len(records))
        # an event may have been superseded by a later one of the same poll
        self._fetch([work for work in started if self._works.holds(work)])

    def _take(self, record: Record) -> Work | None:
        trace = self._tracing.begin(record)
        try:
            upload = self._parse(record, record.known_id, trace)
        except Rejected as error:
            self._endings.bury(record, record.key, Reason.of(error), trace)
            return None
        if not self._replays.admits(upload, record, trace):
            return None
        self._endings.supersede(upload.id, record.partition)
        if (record.partition, record.offset) in self._policy.skip:
            self._endings.bury(record, upload.id.encode(), SKIPPED, trace)
            return None
        if upload.deleted:
            self._endings.delete(upload, record, trace)
            return None
        work = Work(upload, record, trace=trace)
        self._works.begin(work)
        return work

    def _parse(self, record: Record, known_id: str | None, trace: UploadTrace | None) -> Upload:
        upload = self._intake(record.value, record.key, record.timestamp, known_id)
        if trace is not None:
            trace.identify(upload.id)
        return upload

    def _try_again(self) -> None:
        """What waited for another try, and whose time has come."""
        self._look()
        due = self._retrying.take_due(self._pacing.room())
        self._fetch([work for pending in due if (work := self._take_again(pending)) is not None])

    def _take_again(self, pending: Pending) -> Work | None:
        record, attempts = pending.record, pending.attempts
        trace = self._tracing.begin(record, attempts)
        try:
            upload = self._parse(record, pending.id, trace)
        except Rejected as error:
            self._endings.bury_retry(record, Reason.of(error), attempts, trace)
            return None
        work = Work(
            upload, record, attempts, stored=True, deaths=pending.deaths, not_before=pending.not_before,
            trace=trace,
        )  # fmt: skip
        self._works.begin(work)
        if work.deaths >= DEATHS:
            self._endings.give_up(work, Reason("encode-failed", "encode", KILLER.format(work.deaths)))
            return None
        return work

    # ── fetch, decode ────────────────────────────────────────────────────────────────────────────────────

    def _fetch(self, works: list[Work]) -> None:
        if not works:
            return
        for work in works:
            self._works.sent(work)
            if work.trace is not None:
                self._tracing.sent(work.token, work.trace)
        self._pacing.took(len(works))
        self._metrics.stages["fetch"].enter(len(works))
        self._fetchers.submit([Job(work.token, work.upload.url or "") for work in works])

    def on_fetched(self, outcomes: Sequence[FetchOutcome]) -> None:
        """From the fetchers' thread: pictures go straight on to the encoder, failures back to the loop."""
        wanted: list[FetchOutcome] = []
        ready: list[Ready] = []
        held: list[Ready] = []
        for outcome in outcomes:
            work = self._works.fetched(outcome.token)
            if work is not None:
                wanted.append(outcome)
                if isinstance(outcome, Decoded):
                    picture = Ready(outcome.token, outcome.slot)
                    (ready if self._guard.passes(work) else held).append(picture)
            elif isinstance(outcome, Decoded):  # superseded, or its partition went
                self._fetchers.release([outcome.slot])
        self._stages.fetched(wanted)
        if ready:
            self._inference.put(ready)
        if held:
            self._inbox.append(held)
        if failed := [o for o in wanted if isinstance(o, Failed)]:
            self._inbox.append(failed)

    def _cancel(self) -> None:
        """Fetches that nobody waits for any more; many at a time: each call looks at all that wait."""
        tokens = self._works.take_unwanted()
        if tokens:
            self._fetchers.forget(tokens)
            self._metrics.stages["fetch"].leave(len(tokens), "dropped")

    # ── encode, predict, publish ─────────────────────────────────────────────────────────────────────────

    def on_predicted(self, outcomes: list[InferenceOutcome]) -> None:
        """What inference has done; from its thread."""
        self._inbox.append(outcomes)

    def _collect(self) -> None:
        """What the other threads have brought: predictions, failures, pictures that are encoded alone."""
        tags: list[tuple[Work, Predicted]] = []
        while self._inbox:
            for outcome in self._inbox.popleft():
                if isinstance(outcome, Ready):
                    self._guard.add([outcome])
                    continue
                work = self._works.back(outcome.token)
                if work is not None and work.trace is not None:
                    self._tracing.back(outcome.token)
                if work is None or not self._consumer.owns(work.record.partition, work.record.epoch):
                    continue  # superseded, or the partition is somebody else's by now
                if isinstance(outcome, Predicted):
                    tags.append((work, outcome))
                elif isinstance(outcome, Unencodable):
                    self._endings.give_up(work, Reason("encode-failed", "encode", outcome.message))
                else:
                    self._endings.failed(work, outcome)
        self._endings.tag(tags)

    # ── partitions that come and go ──────────────────────────────────────────────────────────────────────

    def _begun(self, begun: BegunPartition) -> None:
        """A partition is ours, with what waits for another try in it."""
        self._retrying.begin(begun.partition, begun.pending)
        self._replays.begin(begun)
        self._guard.begin(begun)

    def _leaving(self, partitions: set[int], lost: bool) -> None:
        """What is in flight is finished if it can be, and published; the rest is left to the next owner."""
        if not lost:
            self._finish(partitions)
        self._delivery.leave(partitions, lost)
        for work in self._works.of(partitions):
            self._endings.abandon(work, "dropped")
        self._cancel()
        for partition in partitions:
            self._retrying.leave(partition)
            self._guard.leave(partition)

    def _finish(self, partitions: set[int]) -> None:
        """Wait for works on their way, at most REVOKE_FINISH."""
        deadline = self._clock() + REVOKE_FINISH
        while self._works.any_under_way(partitions) and self._clock() < deadline:
            self._collect()
            self._guard.step()
            self._sleep(BUSY_WAIT)

    def _report(self) -> None:
        now = self._clock()
        if now < self._report_at:
            return
        self._report_at = now + REPORT_EVERY
        self._consumer.report()
        self._retrying.report(self._metrics)

    # ── leaving ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def partitions(self) -> list[int]:
        return self._consumer.partitions

    @property
    def waiting(self) -> dict[int, str]:
        """Owned partitions that cannot begin, and why."""
        return self._consumer.waiting

    @property
    def in_flight(self) -> int:
        """Uploads on their way, without those that wait for another try."""
        return len(self._works) + self._delivery.waiting

    def drain(self, timeout: float, hurry: Callable[[], bool]) -> bool:
        """Take nothing more in, finish what is in flight, commit.

        Args:
            timeout: seconds at most.
            hurry: asked in every round; True leaves at once.

        Returns:
            Whether everything in flight was finished. What was not is left to the next worker: its offsets
            are not committed. What waits for another try is in the retry topic.
        """
        deadline = self._clock() + timeout
        while self.in_flight and self._clock() < deadline and not hurry():
            if not self._consumer.paused:
                self._consumer.pause()
            self._consumer.poll(1, BUSY_WAIT)  # keeps the membership; records in hand already are not taken
            self._delivery.run_once()
            self._collect()
            self._cancel()
            self._guard.step()
        if not hurry():
            self._consumer.poll(1, 0)
            self._delivery.finish(max(REVOKE_COMMIT, deadline - self._clock()))
        return not self.in_flight

    def give_back(self) -> None:
        """Commit what is done and hand the partitions over in order, after an error that no upload caused."""
        if self._consumer.partitions:
            self._delivery.finish(REVOKE_COMMIT)

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()
