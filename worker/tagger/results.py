"""What an upload ends as, or waits as, made into records: tags, deletions, retries, dead letters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from worker.errors import Rejected
from worker.kafka.delivery import Result
from worker.messages.embedding import CONTENT_TYPE, EmbeddingWriter
from worker.messages.formats import Formats
from worker.messages.headers import CloudEvents, DeadLetterHeaders, Header, RetryHeaders
from worker.messages.record import Record
from worker.messages.upload import Upload
from worker.tagger.in_flight import Work
from worker.tagger.prediction import Predicted, tag_of
from worker.telemetry import log as logs
from worker.telemetry.metrics import Metrics
from worker.telemetry.tracing import UploadTrace

log = logs.get(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class ResultTopics:
    """Where results go; `embeddings` None: they are not kept."""

    tags: str
    retry: str
    dlq: str
    embeddings: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Reason:
    """Why an upload is dead; `code` is one of `worker.errors.ERROR_CODES`."""

    code: str
    stage: str
    message: str

    @classmethod
    def of(cls, error: Rejected) -> Reason:
        return cls(error.code, error.stage, str(error))


class Results:
    """Makes the records.

    Args:
        formats: how tags are written, and what uploads are written in.
        embeddings: makes the values of the embeddings topic, where there is one.
        model: the version of the model at work, for dead letters.
        tag_url: whether tags have the upload's URL.
        cloud: gives tags and deletions the attributes of CloudEvents; None: they have none.
        wall_ms: milliseconds since the epoch.
    """

    def __init__(
        self,
        topics: ResultTopics,
        formats: Formats,
        *,
        embeddings: EmbeddingWriter | None = None,
        model: Callable[[], str],
        tag_url: bool = True,
        cloud: CloudEvents | None = None,
        wall_ms: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._topics = topics
        self._formats = formats
        self._embeddings = embeddings
        self._model = model
        self._tag_url = tag_url
        self._cloud = cloud
        self._wall_ms = wall_ms
        self._metrics = metrics

    # ── tags and deletions ───────────────────────────────────────────────────────────────────────────────

    def tag(self, work: Work, predicted: Predicted) -> list[Result]:
        """The tag, and the embedding beside it where they are kept."""
        upload, now = work.upload, self._wall_ms()
        tag = tag_of(
            predicted,
            id=upload.id,
            url=upload.url if self._tag_url else None,
            uploaded_at=upload.uploaded_at,
            tagged_at=now,
            attributes=upload.attributes,
        )
        self._metrics.end_to_end.observe(max(0.0, (now - upload.uploaded_at) / 1000))
        trace = work.trace and work.trace.publish("tagged")
        kind, value = self._formats.tags.content_type, self._formats.tags.write(tag)
        return [
            Result(
                self._topics.tags,
                work.key,
                value,
                work.record,
                self._cloud_pairs("tag", upload, work.record, now),
                content_type=kind,
                attempts=work.attempts,
                trace=trace,
            ),
            *self._embedding(work, predicted.embedding),
        ]

    def _embedding(self, work: Work, vector: bytes | None) -> list[Result]:
        topic, writer = self._topics.embeddings, self._embeddings
        if topic is None or writer is None or vector is None:
            return []
        value = writer.value(work.upload, vector)
        return [Result(topic, work.key, value, work.record, content_type=CONTENT_TYPE)]

    def deletion(self, upload: Upload, record: Record, trace: UploadTrace | None) -> list[Result]:
        """The end of the tag, and of the embedding where they are kept."""
        key, trace = upload.id.encode(), trace and trace.publish("deleted")
        pairs = self._cloud_pairs("deletion", upload, record, self._wall_ms())
        results = [Result(self._topics.tags, key, None, record, pairs, content_type=None, trace=trace)]
        if self._topics.embeddings is not None:
            results.append(Result(self._topics.embeddings, key, None, record, content_type=None))
        return results

    def _cloud_pairs(self, kind: str, upload: Upload, record: Record, at: int) -> tuple[Header, ...]:
        return () if self._cloud is None else self._cloud.pairs(kind, upload.id, record, at)

    # ── retries ──────────────────────────────────────────────────────────────────────────────────────────

    def retry(
        self, work: Work, record: Record, code: str, not_before: int, trace: UploadTrace | None = None
    ) -> Result:
        """The upload for the retry topic, to be tried again at `not_before`."""
        headers = RetryHeaders(work.attempts, not_before, code, work.deaths if code == "encode-failed" else 0)
        return Result(
            self._topics.retry, work.key, record.value, record, headers.pairs(),
            content_type=self._formats.uploads_type, attempts=work.attempts, trace=trace,
        )  # fmt: skip

    def end_of_retry(self, key: bytes, source: Record, on_safe: Callable[[], None] | None = None) -> Result:
        return Result(self._topics.retry, key, None, source, content_type=None, on_safe=on_safe)

    # ── what Kafka does not take ─────────────────────────────────────────────────────────────────────────

    def is_dead_letter(self, result: Result) -> bool:
        return result.topic == self._topics.dlq

    def is_embedding(self, result: Result) -> bool:
        return result.topic == self._topics.embeddings

    def is_retry(self, result: Result) -> bool:
        return result.topic == self._topics.retry

    # ── dead letters ─────────────────────────────────────────────────────────────────────────────────────

    def dead_letter(
        self, record: Record, key: bytes | None, reason: Reason, attempts: int, trace: UploadTrace | None
    ) -> Result:
        """The upload as it was, and why it is dead; counted and logged."""
        code, stage, message = reason.code, reason.stage, reason.message
        self._metrics.dead_letters[code].inc()
        self._metrics.uploads["dead"].inc()
        log.warning(
            "dead letter",
            code=code, stage=stage, message=message, partition=record.partition, offset=record.offset,
            id=(key or b"").decode(errors="backslashreplace"),
        )  # fmt: skip
        if trace is not None:
            trace.fail(code, message)
            trace.publish("dead")
        headers = DeadLetterHeaders(code, stage, message, attempts, self._model())
        return Result(
            self._topics.dlq, key, record.value, record, headers.pairs(),
            content_type=None, attempts=attempts, trace=trace,
        )  # fmt: skip
