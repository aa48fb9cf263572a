"""worker.telemetry.tracing: a traceparent is continued through the pipeline, and costs nothing where there
is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.world import World, upload
from worker.fetching.protocol import Failed
from worker.kafka.reading import headers_of
from worker.messages.headers import read_traceparent
from worker.messages.record import Record
from worker.telemetry.metrics import Metrics
from worker.telemetry.tracing import Tracing, connect

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01".encode(), f"00-{TRACE}-{PARENT}-00".encode()
START = 1_700_000_000.0
METRICS = Metrics()  # of many worlds


class Watched:
    """A world of the pipeline's tests whose spans are kept; `now` is its clock and the wall's."""

    def __init__(
        self, *events: bytes | None, traceparent: bytes | None = SAMPLED, share: float = 0.0
    ) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))

        def tracing(clock: Callable[[], float]) -> Tracing:
            self.tracing = Tracing(
                "uploads", "group", provider.get_tracer("test"), clock, lambda: int(clock() * 1e9),
                share=share, chance=lambda: 0.25,
            )  # fmt: skip
            return self.tracing

        self.world = World({0: list(events)}, tracing=tracing, metrics=METRICS)
        self.world.consumer.traceparent = traceparent
        self.world.now = START

    def spans(self) -> dict[str, ReadableSpan]:
        found = self.exporter.get_finished_spans()
        assert len({span.name for span in found}) == len(found)
        return {span.name: span for span in found}

    def header(self, index: int = -1) -> bytes | None:
        return self.world.delivery.results[index].traceparent


def seconds(span: ReadableSpan) -> tuple[float, float]:
    assert span.start_time is not None
    assert span.end_time is not None
    return round(span.start_time / 1e9 - START, 3), round(span.end_time / 1e9 - START, 3)


def test_an_upload_is_followed_from_stage_to_stage() -> None:
    """All spans are of the sender's trace, under one span with partition and offset, each with the time of
    its stage; the tag's traceparent names the span that published it."""
    watched = Watched(upload("a"))
    world, tracing = watched.world, watched.tracing
    world.pipeline.run_once()
    (job,) = world.fetchers.jobs
    world.now = START + 10
    tracing.decoded(job.token, 4.0, 2.0)
    tracing.stage("encode", [job.token, 999], START + 11, START + 12)
    tracing.stage("predict", [job.token], START + 12, START + 13)
    world.now = START + 14
    world.answer(0, "tag")
    world.pipeline.run_once()
    assert not tracing.active
    world.now = START + 15
    world.delivery.commit()

    spans = watched.spans()
    root = spans.pop("process uploads")
    assert root.kind is SpanKind.CONSUMER
    assert root.parent is not None
    assert (f"{root.parent.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE, PARENT)
    assert root.attributes is not None
    wanted = {
        "messaging.system": "kafka",
        "messaging.destination.name": "uploads",
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 0,
        "imgclust.upload.id": "a",
        "imgclust.outcome": "tagged",
        "imgclust.attempt": 1,
    }
    assert wanted.items() <= root.attributes.items()
    assert root.status.status_code is StatusCode.UNSET
    assert {name: seconds(span) for name, span in spans.items() if name != "publish"} == {
        "fetch": (4.0, 8.0), "decode": (8.0, 10.0), "encode": (11.0, 12.0), "predict": (12.0, 13.0),
    }  # fmt: skip
    for span in spans.values():
        assert span.parent is not None
        assert span.parent.span_id == root.context.span_id
        assert f"{span.context.trace_id:032x}" == TRACE
    assert spans["publish"].kind is SpanKind.PRODUCER
    assert watched.header() == f"00-{TRACE}-{spans['publish'].context.span_id:016x}-01".encode()


def test_time_in_the_topic_is_a_span() -> None:
    """The span of the upload begins with its record, and `consume` says how long that waited; a record whose
    time cannot be is taken to have come now."""
    watched = Watched()
    for timestamp, waited in ((START - 3, 3.0), (START + 99, 0.0), (-5e9, 0.0), (9e15, 0.0)):
        record = Record(2, 1, 7, None, b"", int(timestamp * 1000), SAMPLED)
        upload_trace = watched.tracing.begin(record)
        assert upload_trace is not None
        upload_trace.end("dropped")
        spans = watched.spans()
        watched.exporter.clear()
        assert seconds(spans["process uploads"])[0] == -waited
        assert ("consume" in spans) == bool(waited)
        if waited:
            assert seconds(spans["consume"]) == (-waited, 0.0)


def test_each_try_continues_the_one_before() -> None:
    """A failed fetch ends its spans with the error; the retry's span is a child of what handed it over."""
    watched = Watched(upload("a"))
    world = watched.world
    world.pipeline.run_once()
    job = world.fetchers.jobs.pop()
    failure = Failed(job.token, "fetch-timeout", "fetch", "no answer", True, None)
    world.pipeline.on_fetched([failure])
    world.pipeline.run_once()
    world.delivery.commit()
    first = watched.spans()
    assert first["fetch"].attributes == {"error.type": "fetch-timeout"}
    assert first["process uploads"].attributes is not None
    assert first["process uploads"].attributes["imgclust.outcome"] == "retry"
    assert first["process uploads"].status.status_code is StatusCode.ERROR
    handed_over = f"{first['publish'].context.span_id:016x}"
    assert watched.header() == f"00-{TRACE}-{handed_over}-01".encode()

    watched.exporter.clear()
    world.settle()
    again = watched.spans()["process uploads"]
    assert again.parent is not None
    assert f"{again.parent.span_id:016x}" == handed_over
    assert again.attributes is not None
    assert again.attributes["imgclust.attempt"] == 2


@pytest.mark.parametrize(
    ("events", "outcomes"),
    [
        ([b"\xff{not json"], ["dead"]),
        ([b'{"id":"a","deleted":true}'], ["deleted"]),
        ([upload("a"), upload("a")], ["superseded", "tagged"]),
    ],
)
def test_every_way_to_end_ends_the_span(events: list[bytes], outcomes: list[str]) -> None:
    """Dead letters, deletions and superseded uploads end their spans too, and nothing stays behind."""
    watched = Watched(*events)
    watched.world.settle()
    roots = [s for s in watched.exporter.get_finished_spans() if s.name == "process uploads"]
    assert sorted(str((s.attributes or {})["imgclust.outcome"]) for s in roots) == outcomes
    assert not watched.tracing.active


def test_a_revoked_partition_ends_its_spans() -> None:
    """What the next owner does is "dropped" here."""
    watched = Watched(upload("a"))
    watched.world.pipeline.run_once()
    watched.world.consumer.revoke(0, lost=True)
    (root,) = [s for s in watched.exporter.get_finished_spans() if s.name == "process uploads"]
    assert (root.attributes or {})["imgclust.outcome"] == "dropped"
    assert not watched.tracing.active


@given(st.text(min_size=1, max_size=60).filter(lambda text: text.isprintable() is False))
def test_hostile_text_is_escaped(text: str) -> None:
    """Ids and messages with control or direction characters reach a span as printable text."""
    watched = Watched()
    upload_trace = watched.tracing.begin(Record(0, 1, 0, None, b"", int(START * 1000), SAMPLED))
    assert upload_trace is not None
    upload_trace.identify(text)
    upload_trace.fail("bad-event", text)
    upload_trace.end("dead")
    (root,) = watched.exporter.get_finished_spans()
    assert str((root.attributes or {})["imgclust.upload.id"]).isprintable()
    assert str(root.status.description).isprintable()


@pytest.mark.parametrize(
    "traceparent",
    [None, NOT_SAMPLED, b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"\xff\xfe\n", b"ff" + SAMPLED[2:]],
)
def test_without_a_valid_sampled_parent_there_is_nothing(traceparent: bytes | None) -> None:
    """No header, a sender that does not sample, or nonsense: no span, and the header is passed on."""
    watched = Watched(upload("a"), traceparent=traceparent)
    watched.world.pipeline.run_once()
    assert not watched.tracing.active
    watched.world.settle()
    assert watched.exporter.get_finished_spans() == ()
    assert watched.header() == traceparent


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (SAMPLED, True),
        (b"01" + SAMPLED[2:] + b"-what-may-come", True),
        (SAMPLED.upper(), False),
        (SAMPLED + b"\n", False),
        (SAMPLED + b"-\x1b[31m", False),
        (b"", False),
        ("text", False),
    ],
)
def test_only_a_well_formed_header_is_taken_from_a_record(value: object, kept: bool) -> None:
    """What is not as W3C has it goes no further than the record."""

    class Message:
        def headers(self) -> list[tuple[str, object]]:
            return [("other", b"x"), ("traceparent", value)]

    assert read_traceparent(headers_of(Message())) == (value if kept else None)  # type: ignore[arg-type]


def test_without_an_sdk_nothing_is_traced() -> None:
    """The API alone makes no spans, and none is begun for a record with a traceparent."""
    assert connect("uploads", "group", lambda: 0.0).begin(Record(0, 1, 0, None, b"", 0, SAMPLED)) is None


def test_a_trace_begins_here_for_a_share_of_the_others() -> None:
    """An upload without a `traceparent` is followed when the dice say so: its stages are below one span that
    has no parent, and its tag carries the header. With a smaller share it is not."""
    watched = Watched(upload("a"), traceparent=None, share=0.5)
    watched.world.settle()
    spans = watched.spans()
    root = spans["process uploads"]
    assert root.parent is None
    assert "publish" in spans
    assert all(span.context.trace_id == root.context.trace_id for span in spans.values())
    header = watched.header()
    assert header is not None
    assert f"{root.context.trace_id:032x}".encode() in header
    quiet = Watched(upload("a"), traceparent=None, share=0.2)
    quiet.world.settle()
    assert quiet.spans() == {}
    assert quiet.header() is None


def test_a_traceparent_is_never_replaced() -> None:
    """What the sender decided stands, sampled or not, whatever the share."""
    watched = Watched(upload("a"), traceparent=NOT_SAMPLED, share=1.0)
    watched.world.settle()
    assert watched.spans() == {}
    assert watched.header() == NOT_SAMPLED
