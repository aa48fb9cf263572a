"""How an upload ends, exactly once: as a tag, a delete, a dead letter, superseded; or it waits for a retry.

What ends is forgotten here and handed to `Delivery` with its results, a pending retry's end among them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError

from worker.fetching.protocol import Failed
from worker.kafka.consumer import UploadsConsumer
from worker.kafka.delivery import Delivery, Result, cut_or_raise, size_of
from worker.messages.record import Record
from worker.messages.upload import Upload
from worker.tagger.in_flight import InFlight, Work
from worker.tagger.prediction import Predicted
from worker.tagger.results import Reason, Results
from worker.tagger.retrying import Retrying
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics
from worker.telemetry.tracing import Tracing, UploadTrace

log = logs.get(__name__)


class Endings:
    """
    Args:
        works: on their way; what ends is removed.
        results: makes the records.
    """

    def __init__(
        self,
        works: InFlight,
        results: Results,
        retrying: Retrying,
        consumer: UploadsConsumer,
        delivery: Delivery,
        *,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self._works = works
        self._results = results
        self._retrying = retrying
        self._consumer = consumer
        self._delivery = delivery
        self._metrics = metrics
        self._tracing = tracing

    def tag(self, tags: Sequence[tuple[Work, Predicted]]) -> None:
        if not tags:
            return
        for work, predicted in tags:
            self._end(work, *self._results.tag(work, predicted))
        made = [predicted for _, predicted in tags]
        self._metrics.count_tags(
            [p.cluster for p in made], [p.probability for p in made], sum(p.novel for p in made)
        )
        self._metrics.uploads["tagged"].inc(len(made))

    def delete(self, upload: Upload, record: Record, trace: UploadTrace | None) -> None:
        self._delivery.publish(*self._results.deletion(upload, record, trace))
        self._metrics.uploads["deleted"].inc()

    def failed(self, work: Work, failure: Failed) -> None:
        """Another try for what may succeed later, a dead letter for the rest."""
        wait = self._retrying.wait_for(work, failure)
        if wait is None:
            self.give_up(work, Reason(failure.code, failure.stage, failure.message))
            return
        record = dataclasses.replace(work.record, key=work.key)
        if work.trace is not None:
            work.trace.fail(failure.code, failure.message)
            work.trace.publish("retry")
            record = dataclasses.replace(record, traceparent=work.trace.traceparent)  # the next try goes on
        not_before = self._retrying.add(work, record, wait)
        self._works.end(work)
        self._delivery.publish(self._results.retry(work, record, failure.code, not_before, work.trace))
        self._metrics.retries[failure.code].inc()

    def give_up(self, work: Work, reason: Reason) -> None:
        dead_letter = self._results.dead_letter(work.record, work.key, reason, work.attempts, work.trace)
        self._end(work, dead_letter)

    def bury(self, record: Record, key: bytes | None, reason: Reason, trace: UploadTrace | None) -> None:
        """A record that was never on its way."""
        self._delivery.publish(self._results.dead_letter(record, key, reason, 0, trace))

    def bury_retry(self, record: Record, reason: Reason, attempts: int, trace: UploadTrace | None) -> None:
        """A pending retry that is no upload any more: the rules have changed since."""
        dead_letter = self._results.dead_letter(record, record.key, reason, attempts, trace)
        self._delivery.publish(dead_letter, self._results.end_of_retry(record.key or b"", record))

    def supersede(self, upload_id: str, partition: int) -> None:
        """The last event of an id wins: an earlier one that has not ended is never published.

        It counts as done at once, before the later one can be: no restart brings it back.
        """
        earlier = self._works.latest(partition, upload_id)
        if earlier is not None:
            self.abandon(earlier, "superseded")
            record, stored = earlier.record, earlier.stored
        else:
            pending = self._retrying.remove(partition, upload_id)
            if pending is None:
                return
            record, stored = pending.record, True
        if stored:  # its offset is done with the end of its retry, not before
            self._delivery.publish(self._results.end_of_retry(upload_id.encode(), record))
        else:
            self._consumer.done(record)
        self._metrics.uploads["superseded"].inc()

    def drop_replay(self, record: Record, trace: UploadTrace | None) -> None:
        """An upload that is sent again, and whose id has had a later event."""
        if trace is not None:
            trace.end("superseded")
        self._consumer.done(record)
        self._metrics.uploads["superseded"].inc()

    def abandon(self, work: Work, why: str) -> None:
        """Nobody waits for `work` any more."""
        self._works.end(work)
        if work.on_end is not None:
            work.on_end()
        if work.trace is not None:
            self._tracing.back(work.token)
            work.trace.end(why)

    def write_down(self, work: Work, on_safe: Callable[[], None]) -> None:
        """`work` is about to be encoded alone: whoever comes next knows, should this worker die of it."""
        now = self._retrying.now_ms()
        note = self._results.retry(work, work.record, "encode-failed", now)
        self._delivery.publish(dataclasses.replace(note, on_safe=on_safe))

    def refused(self, result: Result, error: KafkaError) -> Sequence[Result]:
        """Kafka does not take a result: the upload is a dead letter, which is cut until it fits.

        A pending retry ends with it. Without an embedding an upload is still tagged.

        Raises:
            StartError: a dead letter that cannot be cut any more, or a deletion, is not taken.
        """
        if self._results.is_dead_letter(result) or result.value is None:
            return cut_or_raise(result, error)
        if self._results.is_embedding(result):
            log.error("an embedding is left out", bytes=size_of(result), error=error.str())
            return []
        source, key = result.source, result.key or b""
        reason = Reason(
            "too-large", "publish", f"{result.topic} does not take {size_of(result)} bytes: {error.str()}"
        )
        if not self._results.is_retry(result):
            return [self._results.dead_letter(source, key, reason, result.attempts, result.trace)]
        work = self._works.latest(source.partition, key.decode())
        if work is not None and work.record.offset == source.offset:  # it was about to be encoded alone
            self._works.end(work)
            if work.on_end is not None:
                work.on_end()
        elif self._retrying.remove(source.partition, key.decode()) is None:
            return []  # superseded meanwhile
        dead_letter = self._results.dead_letter(source, key, reason, result.attempts, result.trace)
        return [dead_letter, self._results.end_of_retry(key, source)]

    def _end(self, work: Work, *results: Result) -> None:
        """`work` ends with `results`, and its pending retry with it."""
        self._works.end(work)
        if work.stored:
            results = (*results, self._results.end_of_retry(work.key, work.record, work.on_end))
        self._delivery.publish(*results)
