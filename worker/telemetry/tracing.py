"""An upload's `traceparent` continued: a span for its way through the worker, and one for each stage.

Only OpenTelemetry's API is used. Without an SDK nothing is made and nothing is measured: a look at an
attribute for each upload, and one for each batch. The same holds for uploads without the header, but for the
share of them for which a trace begins here.

Stages run in other threads and in other processes, so spans are made when a stage is over, with the times
that it took. Nothing of an upload but its escaped id, its partition and its offset is in a span.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from worker.messages.record import Record
from worker.messages.text import printable

_W3C = TraceContextTextMapPropagator()
MAX_ID, MAX_MESSAGE = 256, 200
# A record may carry any time; one that is older has not waited in Kafka for so long.
MAX_WAIT_MS = 7 * 24 * 3600 * 1000


def _text(value: str, limit: int) -> str:
    """One line without control, direction or lone surrogate characters, bounded."""
    return value[:limit] if value.isprintable() else printable(value, limit)


def _header(span: trace.Span) -> bytes:
    """The `traceparent` that names the span."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span))
    return carrier["traceparent"].encode()


class UploadTrace:
    """The spans of one try of one upload. `stage` may be called from any thread."""

    __slots__ = ("_context", "_outcome", "_publish", "_span", "_tracer", "_zero", "sent", "traceparent")

    def __init__(
        self, tracer: trace.Tracer, span: trace.Span, zero: int, traceparent: bytes, sent: float
    ) -> None:
        self._tracer, self._span, self._zero = tracer, span, zero
        self._context = trace.set_span_in_context(span)
        self._publish: trace.Span | None = None
        self._outcome = ""
        self.sent = sent
        self.traceparent = traceparent  # for what is published: of the upload, then of the span `publish`

    def _ns(self, seconds: float) -> int:
        return self._zero + int(seconds * 1e9)

    def identify(self, upload_id: str) -> None:
        self._span.set_attribute("imgclust.upload.id", _text(upload_id, MAX_ID))

    def stage(self, name: str, start: float, end: float, error: str = "") -> None:
        """A stage took from `start` to `end`, in seconds of the worker's clock."""
        span = self._tracer.start_span(name, self._context, start_time=self._ns(start))
        if error:
            span.set_attribute("error.type", error)
            span.set_status(trace.StatusCode.ERROR)
        span.end(self._ns(end))

    def fail(self, code: str, message: str) -> None:
        """The try fails with an error code of the wire contract."""
        self._span.set_attribute("error.type", code)
        self._span.set_status(trace.StatusCode.ERROR, _text(message, MAX_MESSAGE))

    def publish(self, outcome: str) -> UploadTrace:
        """Its result goes to Kafka; `traceparent` now names the span that ends when that is safe."""
        self._outcome = outcome
        self._publish = self._tracer.start_span("publish", self._context, trace.SpanKind.PRODUCER)
        self.traceparent = _header(self._publish)
        return self

    def end(self, outcome: str | None = None) -> None:
        """It is over: as `publish` said, or without a result (superseded, dropped)."""
        if self._publish is not None:
            self._publish.end()
        self._span.set_attribute("imgclust.outcome", outcome or self._outcome)
        self._span.end()


class Tracing:
    """Begins traces of uploads, and finds them by the token of the try.

    Args:
        topic, group: of the uploads, for the spans' attributes.
        tracer: None makes no spans at all.
        clock: monotonic seconds, of all times that are passed to them.
        now_ns: nanoseconds since the epoch.
        share: of the uploads without a `traceparent` for which a trace begins here, 0 to 1.
        chance: a random number below 1.
    """

    def __init__(
        self,
        topic: str = "",
        group: str = "",
        tracer: trace.Tracer | None = None,
        clock: Callable[[], float] = time.monotonic,
        now_ns: Callable[[], int] = time.time_ns,
        share: float = 0.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._share, self._chance = share, chance
        self._tracer, self._clock, self._now_ns = tracer, clock, now_ns
        self._name = f"process {topic}"
        self._attributes = {
            "messaging.system": "kafka",
            "messaging.destination.name": topic,
            "messaging.consumer.group.name": group,
        }
        self._on_the_way: dict[int, UploadTrace] = {}

    @property
    def active(self) -> bool:
        """Whether anything on its way is traced."""
        return bool(self._on_the_way)

    def begin(self, record: Record, attempts: int = 0) -> UploadTrace | None:
        """A record was taken in, or is tried again after so many attempts; None when it is not traced."""
        if self._tracer is None:
            return None
        parent = self._parent(record)
        if parent is None:
            return None
        now_ns, now = self._now_ns(), self._clock()
        waited_ms = now_ns // 1_000_000 - record.timestamp
        waited = waited_ms / 1000 if not attempts and 0 < waited_ms < MAX_WAIT_MS else 0.0
        span = self._tracer.start_span(
            self._name, parent, trace.SpanKind.CONSUMER,
            {
                **self._attributes,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
                "imgclust.attempt": attempts + 1,
            },
            start_time=now_ns - int(waited * 1e9),
        )  # fmt: skip
        if not span.is_recording():  # the sender's sampler, or ours, decided against it
            return None
        header = record.traceparent or _header(span)
        upload = UploadTrace(self._tracer, span, now_ns - int(now * 1e9), header, now)
        if waited:
            upload.stage("consume", now - waited, now)
        return upload

    def _parent(self, record: Record) -> Context | None:
        """What the record's span continues; an empty context begins a trace; None: it is not traced."""
        if record.traceparent is not None:
            parent = _W3C.extract({"traceparent": record.traceparent.decode("latin-1")}, Context())
            return parent if trace.get_current_span(parent).get_span_context().is_valid else None
        return Context() if self._share and self._chance() < self._share else None

    def sent(self, token: int, upload: UploadTrace) -> None:
        """This try is with the fetchers."""
        upload.sent = self._clock()
        self._on_the_way[token] = upload

    def back(self, token: int) -> None:
        """This try is over, or nobody waits for it any more."""
        self._on_the_way.pop(token, None)

    def decoded(self, token: int, fetch_seconds: float, decode_seconds: float) -> None:
        """The fetchers answered just now: a picture."""
        upload = self._on_the_way.get(token)
        if upload is not None:
            now = self._clock()
            decoding = now - decode_seconds
            upload.stage("fetch", max(upload.sent, decoding - fetch_seconds), decoding)
            upload.stage("decode", decoding, now)

    def failed(self, token: int, stage: str, error: str) -> None:
        """The fetchers answered just now: no picture could be had."""
        upload = self._on_the_way.get(token)
        if upload is not None:
            upload.stage(stage, upload.sent, self._clock(), error=error)

    def stage(self, name: str, tokens: Sequence[int], start: float, end: float) -> None:
        """A batch was in a stage from `start` to `end`."""
        for token in tokens:
            upload = self._on_the_way.get(token)
            if upload is not None:
                upload.stage(name, start, end)


def connect(topic: str, group: str, clock: Callable[[], float], share: float = 0.0) -> Tracing:
    """Tracing with the SDK that was set up in this process, if one was."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return Tracing(topic, group, clock=clock)
    return Tracing(topic, group, provider.get_tracer("imgclust"), clock, share=share)
