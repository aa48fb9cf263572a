"""The way of an upload, in order, on one screen.

    poll → parse → supersede → fetch, decode → encode, predict → publish → commit

`turn` is the whole of it. It runs on the thread that owns Kafka; fetching and decoding happen in processes of
their own, encoding and predicting in threads of their own, and what they have done comes back through
`_inbox`. Every upload that is taken in ends exactly once: as a tag, a delete, a dead letter, or superseded.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from worker import log as logs
from worker.consume import Record, UploadsConsumer
from worker.errors import Rejected
from worker.fetchers import Failed, Job
from worker.inference import Outcome, Predicted, Unencodable
from worker.messages import Candidate, Tag, Upload, parse_upload, printable
from worker.metrics import Metrics
from worker.publish import Publisher, Result, text_header
from worker.retries import NOT_FOUND_GRACE_MS, PendingRetries, delay

log = logs.get(__name__)

IDLE_WAIT = 0.1  # seconds in one poll with nothing in flight
# with work in flight a result waits at most so long for its publication
BUSY_WAIT = 0.005
REVOKE_FLUSH = 2.0  # seconds that a revocation waits for acknowledgements
REPORT_EVERY = 1.0


class Fetchers(Protocol):
    def submit(self, jobs: list[Job]) -> None: ...


class Model(Protocol):
    """What a tag says of the model that made it."""

    @property
    def version(self) -> str: ...
    @property
    def taxonomy(self) -> str: ...


@dataclasses.dataclass(slots=True, eq=False)
class Work:
    """One upload on its way. `token` names the current try; a result with another token is stale."""

    upload: Upload
    record: Record
    entered: float
    attempts: int = 0
    token: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """What the settings say about single uploads; durations in seconds."""

    tags_topic: str
    dlq_topic: str
    max_in_flight: int
    commit_interval: float
    retry_limit: int
    retry_first: float
    retry_max: float
    tag_url: bool


class Pipeline:
    """Takes uploads in, sends them on their way, publishes what comes back.

    Args:
        connect: makes the consumer and the publisher; they call back into this object.
        names: cluster → name, of the model.
        clock: monotonic seconds.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        connect_consumer: Callable[[Callable[[set[int], bool], None]], UploadsConsumer],
        connect_publisher: Callable[[Callable[[Record], None]], Publisher],
        fetchers: Fetchers,
        model: Model,
        names: Mapping[int, str | None],
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        metrics: Metrics,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._fetchers = fetchers
        self._model = model
        self._names = names
        self._clock = clock
        self._wall_ms = wall_ms
        self._metrics = metrics
        self._spread = spread
        self._tokens = itertools.count(1)
        self._works: dict[int, Work] = {}  # by token: being fetched, decoded, encoded or predicted
        self._latest: dict[str, Work] = {}  # by id: not published yet
        self._retries: PendingRetries[Work] = PendingRetries()
        self._inbox: deque[list[Failed] | list[Outcome]] = deque()  # filled by other threads
        self._commit_at = self._report_at = clock()
        self._publisher = connect_publisher(self._safe)
        self._consumer = connect_consumer(self._leaving)

    # ── the chain ────────────────────────────────────────────────────────────────────────────────────────

    def turn(self) -> None:
        """One round of the loop; waits a moment when there is nothing to do."""
        self._pace()
        busy = bool(self._works or self._inbox or self._publisher.waiting)
        room = self._policy.max_in_flight - len(self._works)
        self._take_in(self._consumer.poll(max(1, room), BUSY_WAIT if busy else IDLE_WAIT))
        self._try_again()
        self._take_back()
        self._publisher.poll()
        self._commit()

    def _pace(self) -> None:
        """Pause at full, resume at half: pausing throws away what was prefetched, so not at every record."""
        load = len(self._works) + self._publisher.waiting
        if not self._consumer.paused and load >= self._policy.max_in_flight:
            self._consumer.pause()
        elif self._consumer.paused and load <= self._policy.max_in_flight // 2:
            self._consumer.resume()

    def _take_in(self, records: Sequence[Record]) -> None:
        if not records:
            return
        self._metrics.stages["consume"].enter(len(records))
        started = []
        for record in records:
            try:
                upload = parse_upload(record.value, record.key, record.timestamp)
            except Rejected as error:
                self._bury(record, record.key, error.code, error.stage, str(error), attempts=0)
                continue
            self._supersede(upload.id)
            if upload.deleted:
                self._delete(upload, record)
                continue
            work = Work(upload, record, self._clock())
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
            jobs.append(Job(work.token, work.upload.url or ""))
        self._metrics.stages["fetch"].enter(len(jobs))
        self._fetchers.submit(jobs)

    def _try_again(self) -> None:
        if self._retries:
            room = self._policy.max_in_flight - len(self._works)
            self._send_off(self._retries.take_due(self._clock(), max(0, room)))

    def _take_back(self) -> None:
        tags: list[tuple[Work, Predicted]] = []
        while self._inbox:
            for outcome in self._inbox.popleft():
                work = self._works.pop(outcome.token, None)
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

    # ── how an upload ends ───────────────────────────────────────────────────────────────────────────────

    def _tag(self, tags: list[tuple[Work, Predicted]]) -> None:
        now = self._wall_ms()
        for work, predicted in tags:
            upload = work.upload
            tag = Tag(
                id=upload.id,
                cluster=predicted.cluster,
                name=self._names.get(predicted.cluster),
                probability=predicted.probability,
                candidates=tuple(Candidate(c, self._names.get(c), s) for c, s in predicted.candidates),
                novel=predicted.novel,
                model=self._model.version,
                taxonomy=self._model.taxonomy,
                url=upload.url if self._policy.tag_url else None,
                uploaded_at=upload.uploaded_at,
                tagged_at=now,
                attributes=upload.attributes,
            )
            del self._latest[upload.id]
            self._publish(Result(self._policy.tags_topic, upload.id.encode(), tag.to_json(), work.record))
            self._metrics.end_to_end.observe(max(0.0, (now - upload.uploaded_at) / 1000))
        self._metrics.count_tags(
            [p.cluster for _, p in tags], [p.probability for _, p in tags], sum(p.novel for _, p in tags)
        )
        self._metrics.uploads["tagged"].inc(len(tags))

    def _delete(self, upload: Upload, record: Record) -> None:
        self._publish(Result(self._policy.tags_topic, upload.id.encode(), None, record, json=False))
        self._metrics.uploads["deleted"].inc()

    def _supersede(self, upload_id: str) -> None:
        """The last event of an id wins: an earlier one that is not published yet never will be."""
        earlier = self._latest.pop(upload_id, None)
        if earlier is None:
            return
        self._retries.remove(upload_id)
        self._works.pop(earlier.token, None)
        self._consumer.done(earlier.record)
        self._metrics.uploads["superseded"].inc()

    def _failed(self, work: Work, failure: Failed) -> None:
        """Another try for what may mend itself, a dead letter for the rest."""
        policy = self._policy
        too_old = (
            failure.code == "not-found" and self._wall_ms() - work.upload.uploaded_at > NOT_FOUND_GRACE_MS
        )
        if not failure.transient or too_old or work.attempts >= policy.retry_limit:
            self._give_up(work, failure.code, failure.stage, failure.message)
            return
        wait = delay(work.attempts, policy.retry_first, policy.retry_max, self._spread(), failure.retry_after)
        now = self._clock()
        self._retries.add(work.upload.id, work, now + wait, now)
        self._metrics.retries[failure.code].inc()

    def _give_up(self, work: Work, code: str, stage: str, message: str) -> None:
        del self._latest[work.upload.id]
        self._bury(work.record, work.upload.id.encode(), code, stage, message, work.attempts)

    def _bury(
        self, record: Record, key: bytes | None, code: str, stage: str, message: str, attempts: int
    ) -> None:
        headers = (
            ("error-code", code.encode()),
            ("error-stage", stage.encode()),
            text_header("error-message", message),
            ("attempts", b"%d" % attempts),
            ("model", self._model.version.encode()),
        )
        self._publish(
            Result(self._policy.dlq_topic, key, record.value, record, headers, json=False, omittable=True)
        )
        self._metrics.dead_letters[code].inc()
        self._metrics.uploads["dead"].inc()
        log.warning(
            "dead letter",
            code=code, stage=stage, message=message, partition=record.partition, offset=record.offset,
            id=printable(key or b""),
        )  # fmt: skip

    def _publish(self, result: Result) -> None:
        self._metrics.stages["publish"].enter()
        self._publisher.publish(result)

    def _safe(self, record: Record) -> None:
        """The broker acknowledged the result of `record`."""
        self._consumer.done(record)
        self._metrics.stages["publish"].leave()

    # ── what other threads bring ─────────────────────────────────────────────────────────────────────────

    def on_failed(self, failures: list[Failed]) -> None:
        """Fetches and decodings that failed; from any thread."""
        self._inbox.append(failures)

    def on_predicted(self, outcomes: list[Outcome]) -> None:
        """What inference has done; from any thread."""
        self._inbox.append(outcomes)

    # ── offsets ──────────────────────────────────────────────────────────────────────────────────────────

    def _commit(self) -> None:
        now = self._clock()
        if now >= self._commit_at:
            self._commit_at = now + self._policy.commit_interval
            self._consumer.commit()
        if now >= self._report_at:
            self._report_at = now + REPORT_EVERY
            self._consumer.report()
            pending, due, oldest = self._retries.counts(now)
            self._metrics.retries_pending.set(pending)
            self._metrics.retries_due.set(due)
            self._metrics.retries_oldest.set(oldest)

    def _leaving(self, partitions: set[int], lost: bool) -> None:
        """What was published is waited for; what was not is left to the partitions' next owner."""
        if lost:
            self._metrics.stages["publish"].leave(self._publisher.drop(partitions), "dropped")
        elif self._publisher.waiting:
            self._publisher.flush(REVOKE_FLUSH)
        leaving = [w for w in self._latest.values() if w.record.partition in partitions]
        for work in leaving:
            del self._latest[work.upload.id]
            self._retries.remove(work.upload.id)
            self._works.pop(work.token, None)

    # ── leaving ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def partitions(self) -> list[int]:
        return self._consumer.partitions

    @property
    def in_flight(self) -> int:
        """Uploads on their way, without those that wait for another try."""
        return len(self._works) + self._publisher.waiting

    def drain(self, timeout: float, hurry: Callable[[], bool]) -> bool:
        """Take nothing more in, finish what is in flight, commit.

        Args:
            timeout: seconds at most.
            hurry: asked in every turn; True leaves at once.

        Returns:
            Whether everything in flight was finished. What was not, and what waits for another try, is left
            to the next worker: its offsets are not committed.
        """
        deadline = self._clock() + timeout
        while self.in_flight and self._clock() < deadline and not hurry():
            if not self._consumer.paused:
                self._consumer.pause()
            self._consumer.poll(1, BUSY_WAIT)  # keeps the membership; records in hand already are not taken
            self._take_back()
            self._publisher.poll()
            self._commit()
        if not hurry():
            self._publisher.flush(max(0.0, deadline - self._clock()))
            self._consumer.commit(wait=True)
        return not self.in_flight

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()
