"""Dead letters: reading them, choosing among them, and which of them may be sent again."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.commands.dead_letters import (
    DeadLetter,
    Filter,
    read_dead_letter,
    upload_of,
)
from worker.commands.later_events import LaterEvents, reason_to_skip
from worker.commands.operator_arguments import duration
from worker.commands.replay import replay_record
from worker.kafka.scanner import Entry
from worker.messages.formats import Formats
from worker.messages.headers import ReplayHeaders, SourcePosition, read_headers
from worker.messages.mapping import MappedIntake
from worker.messages.mapping_syntax import parse_map

NOW = 1_790_000_000_000


def entry(value: bytes | None = b'{"id":"a","url":"http://x/"}', at: int = NOW, **headers: str) -> Entry:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Entry("uploads.dlq", 2, 7, at, b"a", value, named)


def letter(
    value: bytes | None = b'{"id":"a","url":"http://x/"}', at: int = NOW, **headers: str
) -> DeadLetter:
    source = {"source_partition": "2", "source_offset": "40", "source_timestamp": str(NOW - 5000)}
    return read_dead_letter(entry(value, at, **{**source, "error_code": "fetch-failed", **headers}))


@given(st.one_of(st.none(), st.binary(max_size=40)), st.dictionaries(st.text(), st.text(), max_size=6))
def test_any_record_is_read(value: bytes | None, headers: dict[str, str]) -> None:
    """Whatever lies in the topic, reading it raises nothing, and only what has an id has one."""
    found = read_dead_letter(Entry("uploads.dlq", 0, 0, NOW, None, value, headers))
    assert found.id is None or isinstance(found.id, str)


@pytest.mark.parametrize(
    ("headers", "source"),
    [
        ({"source_partition": "1", "source_offset": "2", "source_timestamp": "3"}, SourcePosition(1, 2, 3)),
        ({"source_partition": "1", "source_offset": "2"}, None),
        ({"source_partition": "x", "source_offset": "2", "source_timestamp": "3"}, None),
    ],
)
def test_a_source_is_read_whole_or_not_at_all(headers: dict[str, str], source: SourcePosition | None) -> None:
    """Headers that do not name a place name none."""
    assert entry(**headers).source == source


@pytest.mark.parametrize(
    ("chosen", "takes"),
    [
        (Filter(), True),
        (Filter(codes=frozenset({"fetch-failed"})), True),
        (Filter(codes=frozenset({"not-found"})), False),
        (Filter(ids=frozenset({"a", "b"})), True),
        (Filter(ids=frozenset({"b"})), False),
        (Filter(partitions=frozenset({2})), True),
        (Filter(partitions=frozenset({1})), False),
        (Filter(older_than=60), False),
        (Filter(newer_than=60), True),
        (Filter(older_than=9, newer_than=11), True),
        (Filter(codes=frozenset({"fetch-failed"}), ids=frozenset({"b"})), False),
    ],
)
def test_a_filter_takes_what_every_field_takes(chosen: Filter, takes: bool) -> None:
    """All that are given must hold."""
    assert chosen.takes(letter(at=NOW - 10_000), NOW) is takes


@pytest.mark.parametrize(
    ("later", "skipped"),
    [
        (SourcePosition(2, 41, 0), True),  # later in its partition, whatever its clock says
        (SourcePosition(2, 40, NOW), False),  # the letter's own upload
        (SourcePosition(2, 39, NOW + 1), False),
        (SourcePosition(1, 1, NOW), True),  # elsewhere only the clock can tell
        (SourcePosition(1, 99, 0), False),
    ],
)
def test_a_letter_with_a_later_event_stays(later: SourcePosition, skipped: bool) -> None:
    """Sent again, it would be the last event of its id, and win over the newer one."""
    events = LaterEvents(["a"])
    events.saw("a", later, "tagged")
    assert (reason_to_skip(letter(), events, without_id=False) is not None) is skipped


def test_the_latest_event_counts() -> None:
    """Of many events of an id the latest one decides, in whatever order they were seen."""
    events = LaterEvents(["a"])
    for offset in (3, 44, 12):
        events.saw("a", SourcePosition(2, offset, 0), f"event {offset}")
    found = events.after("a", SourcePosition(2, 40, 0))
    assert found is not None
    assert found.where == "event 44"
    assert events.after("a", SourcePosition(2, 44, 0)) is None
    assert "b" not in events


def test_what_cannot_be_sent_again_says_why() -> None:
    """A letter without a source, one whose upload was left out, and one whose event has no id."""
    nothing = LaterEvents([])
    foreign = read_dead_letter(entry())
    assert "did not write" in (reason_to_skip(foreign, nothing, without_id=True) or "")
    omitted = letter(value=None, value_omitted="too large")
    assert "2:40" in (reason_to_skip(omitted, nothing, without_id=True) or "")
    broken = letter(value=b"{not json")
    assert "no id" in (reason_to_skip(broken, nothing, without_id=False) or "")
    assert reason_to_skip(broken, nothing, without_id=True) is None


@given(st.none() | st.binary(max_size=60), st.none() | st.binary(max_size=20), st.none() | st.integers(0, 99))
def test_an_upload_is_sent_as_it_was(value: bytes | None, key: bytes | None, seen: int | None) -> None:
    """Key and value byte for byte, in whatever format they are (Avro, Protobuf, framed JSON, no format at
    all); where and when it was read at first is in headers."""
    headers = {"source-partition": "2", "source-offset": "40", "source-timestamp": "123"}
    found = Entry("uploads.dlq", 2, 7, NOW, key, value, {**headers, "error-code": "fetch-failed"})
    record = replay_record(read_dead_letter(found), seen)
    assert (record.partition, record.key, record.value) == (2, key, value)
    read = ReplayHeaders.read(read_headers(record.headers))
    assert read == ReplayHeaders("2:7", SourcePosition(2, 40, 123), "fetch-failed", seen)


def test_the_trace_goes_on() -> None:
    """A well-formed `traceparent` of the dead letter goes along, anything else does not."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert ("traceparent", trace.encode()) in replay_record(letter(traceparent=trace), None).headers
    assert "traceparent" not in dict(replay_record(letter(traceparent="x"), None).headers)


def test_the_id_of_a_replay_is_its_key() -> None:
    """As with the dead letter, whose key is the id: where a map reads ids from the source's keys, it would
    find another one there, or none."""
    intake = MappedIntake(parse_map("id=$key.photo.id,url=url"))
    formats = Formats(intake=intake)
    sent = replay_record(letter(b'{"url":"http://x/"}'), 3)
    entry = Entry("uploads", 2, 90, NOW, sent.key, sent.value, read_headers(sent.headers), formats)
    found = upload_of(entry)
    assert found is not None
    assert found.id == "a"


def test_ages() -> None:
    """`90s`, `15m`, `2h`, `7d`, and nothing else."""
    assert [duration(text) for text in ("90s", "15m", "2h", "7d")] == [90, 900, 7200, 604_800]
    for text in ("", "h", "2", "-1h", "2w", "1.5h", "²h"):
        with pytest.raises(argparse.ArgumentTypeError):
            duration(text)
