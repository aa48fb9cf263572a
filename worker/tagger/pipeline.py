"""The way of an upload, in order, on one screen.

    poll → publish, commit → parse → supersede → fetch, decode → encode, predict
                  └─ results of the turns before, in one transaction with their offsets

`run_once` is the whole of it. It runs on the thread that owns Kafka; fetching and decoding happen in
processes of
their own, encoding and predicting in threads of their own, and what they have done comes back through
`_inbox`. Every upload that is taken in ends exactly once: as a tag, a delete, a dead letter, or superseded.
One that is to be tried again is handed over to the retry topic: its offset is done, and its record there
stays until it has ended.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from worker.errors import Rejected
from worker.fetching.protocol import Failed, Job
from worker.kafka.assignment import BegunPartition
from worker.kafka.consumer import UploadsConsumer
from worker.kafka.delivery import REVOKE_COMMIT, Delivery, Result
from worker.kafka.pending_retries import NOT_FOUND_GRACE_MS, PendingRetries, delay
from worker.kafka.retry_changelog import Pending
from worker.messages.embedding import CONTENT_TYPE, EmbeddingWriter
from worker.messages.formats import Formats
from worker.messages.headers import text_header
from worker.messages.record import Record
from worker.messages.text import printable
from worker.messages.upload import Upload
from worker.settings.values import RetryLimits
from worker.tagger.poison import DEATHS, PoisonGuard
from worker.tagger.prediction import InferenceOutcome, ModelInfo, Predicted, Ready, Unencodable, tag_of
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics
from worker.telemetry.tracing import Tracing, UploadTrace

log = logs.get(__name__)

SKIPPED = "named by WORKER_SKIP: not tried"
KILLER = "{} workers died while it was encoded with nothing beside it"
MAX_OFFSET = 2**63 - 1

IDLE_WAIT = 0.1  # seconds in one poll with nothing in flight
# with work in flight a result waits at most so long for its publication
BUSY_WAIT = 0.005
# What is in flight for partitions that are revoked is finished, if it can be within this; the rest is dropped
# and done by the next owner. The group waits meanwhile, so it is short: most images take less.
REVOKE_FINISH = 1.0  # seconds
# Uploads are at most 64 KiB each; what is no upload may be as large as the topic allows, and is held until
# its dead letter is written.
MAX_RESULT_BYTES = 64 * 1024 * 1024
REPORT_EVERY = 1.0


class Fetchers(Protocol):
    def submit(self, jobs: list[Job]) -> None: ...
    def release(self, slots: list[int]) -> None: ...


class Encoding(Protocol):
    """Inference: for pictures that go through the loop (see `worker.tagger.poison`), and whose work it is."""

    def put(self, ready: Sequence[Ready]) -> None: ...
    @property
    def maker(self) -> ModelInfo: ...
    @property
    def outstanding(self) -> int: ...


@dataclasses.dataclass(slots=True, eq=False)
class Work:
    """One upload on its way. `token` names the current try; a result with another token is stale.

    Attributes:
        attempts: tries, this one included.
        stored: the retry topic has a record of it.
        deaths: workers that died while it was encoded with nothing beside it.
    """

    upload: Upload
    record: Record
    attempts: int = 0
    token: int = 0
    stored: bool = False
    deaths: int = 0
    journey: UploadTrace | None = None  # when it is traced


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """What the settings say about single uploads; durations in seconds."""

    tags_topic: str
    retry_topic: str
    dlq_topic: str
    max_in_flight: int
    retry_limit: RetryLimits
    retry_first: float
    retry_max: float
    tag_url: bool
    embeddings_topic: str | None = None  # None: embeddings are not kept
    skip: frozenset[tuple[int, int]] = frozenset()  # (partition, offset): dead letters, untried


Leaving = Callable[[set[int], bool], None]


class Pipeline:
    """Takes uploads in, sends them on their way, publishes what comes back.

    Args:
        connect_consumer: makes the consumer; it calls back when a partition has begun (`_begun`) and when
            some go (`_leaving`).
        connect_delivery: makes what publishes and commits.
        formats: how uploads are read, and tags written.
        embeddings: makes the records of the embeddings topic, where there is one.
        clock: monotonic seconds.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        connect_consumer: Callable[[Callable[[BegunPartition], None], Leaving], UploadsConsumer],
        connect_delivery: Callable[[UploadsConsumer], Delivery],
        fetchers: Fetchers,
        inference: Encoding,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        metrics: Metrics,
        spread: Callable[[], float] = random.random,
        sleep: Callable[[float], None] = time.sleep,
        tracing: Tracing | None = None,
        formats: Formats | None = None,
        embeddings: EmbeddingWriter | None = None,
    ) -> None:
        self._policy = policy
        self._embeddings = embeddings
        self._fetchers = fetchers
        self._formats = formats or Formats()
        self._clock = clock
        self._wall_ms = wall_ms
        self._metrics = metrics
        self._spread = spread
        self._sleep = sleep
        self._tracing = tracing or Tracing()
        self._tokens = itertools.count(1)
        self._works: dict[int, Work] = {}  # by token: being fetched, decoded, encoded or predicted
        self._latest: dict[str, Work] = {}  # the same by id
        self._retries: dict[int, PendingRetries[Pending]] = {}  # by partition, then by id
        # filled by other threads
        self._inbox: deque[list[Failed] | list[InferenceOutcome] | list[Ready]] = deque()
        self._inference = inference
        self._trials = PoisonGuard(inference.put, lambda: inference.outstanding, policy.max_in_flight)
        self._trial: tuple[Ready, int] | None = None  # a suspect, and how many results must be safe first
        self._published = 0
        self._report_at = clock()
        self._consumer = connect_consumer(self._begun, self._leaving)
        self._delivery = connect_delivery(self._consumer)

    # ── the chain ────────────────────────────────────────────────────────────────────────────────────────

    def run_once(self) -> None:
        """One round of the loop; waits a moment when there is nothing to do."""
        self._pace()
        busy = bool(self._works or self._inbox or self._delivery.waiting)
        records = self._consumer.poll(self._room_for_new(), BUSY_WAIT if busy else IDLE_WAIT)
        self._delivery.run_once()  # right after the poll: see `UploadsConsumer.snapshot`
        self._take_in(records)
        self._try_again()
        self._take_back()
        self._try_one()
        self._report()

    def _pace(self) -> None:
        """Pause at full, resume at half: pausing throws away what was prefetched, so not at every record."""
        load = len(self._works) + self._delivery.waiting
        nbytes = self._delivery.waiting_bytes
        if not self._consumer.paused:
            if load >= self._policy.max_in_flight or nbytes >= MAX_RESULT_BYTES:
                self._consumer.pause()
        elif load <= self._policy.max_in_flight // 2 and nbytes <= MAX_RESULT_BYTES // 2:
            self._consumer.resume()

    def _room_for_new(self) -> int:
        """What is due for another try gets half of the room: neither waits for the other to run dry."""
        room = self._policy.max_in_flight - len(self._works)
        now = self._clock()
        due = sum(pending.due(now) for pending in self._retries.values())
        return max(1, room - min(due, room // 2))

    def _take_in(self, records: Sequence[Record]) -> None:
        if not records:
            return
        self._metrics.stages["consume"].enter(len(records))
        started = []
        for record in records:
            journey = self._tracing.begin(record)
            try:
                upload = self._formats.intake(record.value, record.key, record.timestamp)
            except Rejected as error:
                self._bury(record, record.key, error.code, error.stage, str(error), 0, journey)
                continue
            if journey is not None:
                journey.identify(upload.id)
            self._supersede(upload.id, record.partition)
            if (record.partition, record.offset) in self._policy.skip:
                self._bury(record, upload.id.encode(), "encode-failed", "consume", SKIPPED, 0, journey)
                continue
            if upload.deleted:
                self._delete(upload, record, journey)
                continue
            work = Work(upload, record, journey=journey)
            self._latest[upload.id] = work
            started.append(work)
        self._metrics.stages["consume"].leave(len(records))
        # an event may have been superseded by a later one of the same poll
        self._send_off([work for work in started if self._latest.get(work.upload.id) is work])

    def _send_off(self, works: list[Work]) -> None:
        """To the fetchers, each under a new token."""
        if not works:
            return
        jobs = []
        for work in works:
            work.token = next(self._tokens)
            work.attempts += 1
            self._works[work.token] = work
            if work.journey is not None:
                self._tracing.sent(work.token, work.journey)
            jobs.append(Job(work.token, work.upload.url or ""))
        self._metrics.stages["fetch"].enter(len(jobs))
        self._fetchers.submit(jobs)

    def _try_again(self) -> None:
        room = self._policy.max_in_flight - len(self._works)
        now = self._clock()
        again: list[Work] = []
        for retries in self._retries.values():
            for pending in retries.take_due(now, max(0, room - len(again))):
                record, attempts = pending.record, pending.attempts
                journey = self._tracing.begin(record, attempts)
                try:
                    upload = self._formats.intake(record.value, record.key, record.timestamp, pending.id)
                except Rejected as error:  # it was an upload once: the rules have changed since
                    self._bury(record, record.key, error.code, error.stage, str(error), attempts, journey)
                    self._publish(self._end_of_retry(record.key or b"", record))
                    continue
                if journey is not None:
                    journey.identify(upload.id)
                work = Work(upload, record, attempts, stored=True, deaths=pending.deaths, journey=journey)
                self._latest[upload.id] = work
                if pending.deaths >= DEATHS:
                    self._give_up(work, "encode-failed", "encode", KILLER.format(pending.deaths))
                    continue
                again.append(work)
        self._send_off(again)

    def _take_back(self) -> None:
        tags: list[tuple[Work, Predicted]] = []
        while self._inbox:
            for outcome in self._inbox.popleft():
                if isinstance(outcome, Ready):
                    self._trials.add([outcome])
                    continue
                work = self._works.pop(outcome.token, None)
                if work is not None and work.journey is not None:
                    self._tracing.back(outcome.token)
                if work is None or not self._consumer.owns(work.record.partition, work.record.epoch):
                    continue  # superseded, or the partition is somebody else's by now
                if isinstance(outcome, Predicted):
                    tags.append((work, outcome))
                elif isinstance(outcome, Unencodable):
                    self._give_up(work, "encode-failed", "encode", outcome.message)
                else:
                    self._failed(work, outcome)
        if tags:
            self._tag(tags)

    def _try_one(self) -> None:
        """While something kills workers: one picture at a time, and a suspect is written down before."""
        if self._trial is not None:
            ready, after = self._trial
            if self._published - self._delivery.waiting < after:
                return
            self._trial = None
            self._inference.put([ready])
            return
        ready_now = self._trials.next()
        if ready_now is None:
            return
        work = self._works.get(ready_now.token)
        if work is None:  # superseded, or of a partition that went
            self._fetchers.release([ready_now.slot])
        elif self._trials.suspects(work.record):
            work.deaths += 1  # unless it ends; then its record is taken back
            work.stored = True
            self._publish(self._retry_record(work, work.record, "encode-failed", self._wall_ms()))
            self._trial = ready_now, self._published
        else:
            self._inference.put([ready_now])

    # ── how an upload ends ───────────────────────────────────────────────────────────────────────────────

    def _tag(self, tags: list[tuple[Work, Predicted]]) -> None:
        now = self._wall_ms()
        for work, predicted in tags:
            upload = work.upload
            tag = tag_of(
                predicted,
                id=upload.id,
                url=upload.url if self._policy.tag_url else None,
                uploaded_at=upload.uploaded_at,
                tagged_at=now,
                attributes=upload.attributes,
            )
            journey = work.journey and work.journey.publish("tagged")
            key, value = upload.id.encode(), self._formats.tags.write(tag)
            kind = self._formats.tags.content_type
            result = Result(
                self._policy.tags_topic, key, value, work.record, content_type=kind, trace=journey
            )
            self._end(work, result, *self._embedding(work, predicted))
            self._metrics.end_to_end.observe(max(0.0, (now - upload.uploaded_at) / 1000))
        self._metrics.count_tags(
            [p.cluster for _, p in tags], [p.probability for _, p in tags], sum(p.novel for _, p in tags)
        )
        self._metrics.uploads["tagged"].inc(len(tags))

    def _embedding(self, work: Work, predicted: Predicted) -> list[Result]:
        """The embedding beside the tag, where they are kept."""
        topic, writer, vector = self._policy.embeddings_topic, self._embeddings, predicted.embedding
        if topic is None or writer is None or vector is None:
            return []
        key, value = work.upload.id.encode(), writer.value(work.upload, vector)
        return [Result(topic, key, value, work.record, content_type=CONTENT_TYPE)]

    def _end(self, work: Work, *results: Result) -> None:
        """`work` ends with `results`, and its pending retry with it."""
        del self._latest[work.upload.id]
        if work.stored:
            results = (*results, self._end_of_retry(work.upload.id.encode(), work.record))
        self._publish(*results)

    def _publish(self, *results: Result) -> None:
        self._published += len(results)
        self._delivery.publish(*results)

    def _retry_record(
        self, work: Work, record: Record, code: str, not_before: int, journey: UploadTrace | None = None
    ) -> Result:
        headers = (
            ("attempt", b"%d" % work.attempts),
            ("not-before", b"%d" % not_before),
            ("error-code", code.encode()),
            *((("deaths", b"%d" % work.deaths),) if code == "encode-failed" else ()),
        )
        key, kind = work.upload.id.encode(), self._formats.uploads_type
        return Result(
            self._policy.retry_topic, key, record.value, record, headers, content_type=kind, trace=journey
        )

    def _end_of_retry(self, key: bytes, source: Record) -> Result:
        return Result(self._policy.retry_topic, key, None, source, content_type=None)

    def _delete(self, upload: Upload, record: Record, journey: UploadTrace | None) -> None:
        journey = journey and journey.publish("deleted")
        key = upload.id.encode()
        results = [Result(self._policy.tags_topic, key, None, record, content_type=None, trace=journey)]
        if self._policy.embeddings_topic is not None:
            results.append(Result(self._policy.embeddings_topic, key, None, record, content_type=None))
        self._publish(*results)
        self._metrics.uploads["deleted"].inc()

    def _supersede(self, upload_id: str, partition: int) -> None:
        """The last event of an id wins: an earlier one that has not ended is never published.

        It counts as done at once, before the later one can be: no restart brings it back.
        """
        earlier = self._latest.pop(upload_id, None)
        if earlier is not None:
            self._abandon(earlier, "superseded")
            record, stored = earlier.record, earlier.stored
        else:
            retries = self._retries.get(partition)
            pending = retries.remove(upload_id) if retries else None
            if pending is None:
                return
            record, stored = pending.record, True
        if stored:
            self._publish(self._end_of_retry(upload_id.encode(), record))
        self._consumer.done(record)
        self._metrics.uploads["superseded"].inc()

    def _abandon(self, work: Work, why: str) -> None:
        """Nobody waits for `work` any more."""
        self._works.pop(work.token, None)
        if work.journey is not None:
            self._tracing.back(work.token)
            work.journey.end(why)

    def _failed(self, work: Work, failure: Failed) -> None:
        """Another try for what may mend itself, a dead letter for the rest."""
        policy = self._policy
        too_old = (
            failure.code == "not-found" and self._wall_ms() - work.upload.uploaded_at > NOT_FOUND_GRACE_MS
        )
        if not failure.transient or too_old or work.attempts >= policy.retry_limit.of(failure.code):
            self._give_up(work, failure.code, failure.stage, failure.message)
            return
        wait = delay(work.attempts, policy.retry_first, policy.retry_max, self._spread(), failure.retry_after)
        not_before = self._wall_ms() + int(wait * 1000)
        record = dataclasses.replace(work.record, key=work.upload.id.encode())
        del self._latest[work.upload.id]
        if (journey := work.journey) is not None:
            journey.fail(failure.code, failure.message)
            journey.publish("retry")
            record = dataclasses.replace(record, traceparent=journey.traceparent)  # the next try continues it
        self._publish(self._retry_record(work, record, failure.code, not_before, journey))
        self._retries[record.partition].add(
            work.upload.id,
            Pending(record, work.attempts, not_before),
            self._clock() + wait,
            record.timestamp,
        )
        self._metrics.retries[failure.code].inc()

    def _give_up(self, work: Work, code: str, stage: str, message: str) -> None:
        key = work.upload.id.encode()
        letter = self._dead_letter(work.record, key, code, stage, message, work.attempts, work.journey)
        self._end(work, letter)

    def _bury(
        self, record: Record, key: bytes | None, code: str, stage: str, message: str, attempts: int,
        journey: UploadTrace | None,
    ) -> None:  # fmt: skip
        self._publish(self._dead_letter(record, key, code, stage, message, attempts, journey))

    def _dead_letter(
        self, record: Record, key: bytes | None, code: str, stage: str, message: str, attempts: int,
        journey: UploadTrace | None,
    ) -> Result:  # fmt: skip
        headers = (
            ("error-code", code.encode()),
            ("error-stage", stage.encode()),
            text_header("error-message", message),
            ("attempts", b"%d" % attempts),
            ("model", self._inference.maker.version.encode()),
        )
        self._metrics.dead_letters[code].inc()
        self._metrics.uploads["dead"].inc()
        log.warning(
            "dead letter",
            code=code, stage=stage, message=message, partition=record.partition, offset=record.offset,
            id=printable(key or b""),
        )  # fmt: skip
        if journey is not None:
            journey.fail(code, message)
            journey.publish("dead")
        return Result(
            self._policy.dlq_topic, key, record.value, record, headers,
            content_type=None, omittable=True, trace=journey,
        )  # fmt: skip

    # ── what other threads bring ─────────────────────────────────────────────────────────────────────────

    def on_failed(self, failures: list[Failed]) -> None:
        """Fetches and decodings that failed; from any thread."""
        self._inbox.append(failures)

    @property
    def careful(self) -> bool:
        """Whether decoded pictures go to `on_decoded` and not to the encoder."""
        return self._trials.active

    def on_decoded(self, ready: list[Ready]) -> None:
        """Pictures that are to be encoded one at a time; from any thread."""
        self._inbox.append(ready)

    def on_predicted(self, outcomes: list[InferenceOutcome]) -> None:
        """What inference has done; from any thread."""
        self._inbox.append(outcomes)

    # ── partitions that come and go ──────────────────────────────────────────────────────────────────────

    def _begun(self, begun: BegunPartition) -> None:
        """A partition is ours, with what waits for another try in it."""
        self._retries[begun.partition] = begun.pending
        self._trials.begin(begun)

    def _leaving(self, partitions: set[int], lost: bool) -> None:
        """What is in flight is finished if it can be, and published; the rest is left to the next owner."""
        if not lost:
            self._finish(lambda work: work.record.partition in partitions)
        self._delivery.leave(partitions, lost)
        for work in [w for w in self._latest.values() if w.record.partition in partitions]:
            del self._latest[work.upload.id]
            self._abandon(work, "dropped")
        for partition in partitions:
            self._retries.pop(partition, None)
            self._trials.passed(partition, MAX_OFFSET)

    def _finish(self, wanted: Callable[[Work], bool]) -> None:
        """Wait for works on their way, at most REVOKE_FINISH."""
        deadline = self._clock() + REVOKE_FINISH
        while any(map(wanted, self._works.values())) and self._clock() < deadline:
            self._take_back()
            self._sleep(BUSY_WAIT)

    def _report(self) -> None:
        now = self._clock()
        if now < self._report_at:
            return
        self._report_at = now + REPORT_EVERY
        self._consumer.report()
        for partition in self._trials.partitions:
            self._trials.passed(partition, self._consumer.position(partition))
        retries = self._retries.values()
        oldest = min((o for o in (r.oldest() for r in retries) if o is not None), default=None)
        self._metrics.retries_pending.set(sum(map(len, retries)))
        self._metrics.retries_due.set(sum(r.due(now) for r in retries))
        self._metrics.retries_oldest.set(
            0.0 if oldest is None else max(0.0, (self._wall_ms() - oldest) / 1000)
        )

    # ── leaving ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def partitions(self) -> list[int]:
        return self._consumer.partitions

    @property
    def in_flight(self) -> int:
        """Uploads on their way, without those that wait for another try."""
        return len(self._works) + self._delivery.waiting

    def drain(self, timeout: float, hurry: Callable[[], bool]) -> bool:
        """Take nothing more in, finish what is in flight, commit.

        Args:
            timeout: seconds at most.
            hurry: asked in every turn; True leaves at once.

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
            self._take_back()
        if not hurry():
            self._consumer.poll(1, 0)
            self._delivery.finish(max(REVOKE_COMMIT, deadline - self._clock()))
        return not self.in_flight

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()
