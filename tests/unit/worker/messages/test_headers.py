"""worker.messages.headers: what is written is read back the same, and strangers' headers do no harm."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from worker.errors import ERROR_CODES
from worker.messages.headers import (
    MAX_HEADER_TEXT,
    DeadLetterHeaders,
    ReplayHeaders,
    RetryHeaders,
    SourcePosition,
    read_headers,
    read_traceparent,
    replay_of,
    result_headers,
)
from worker.messages.record import Record

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

partitions = st.integers(0, 2**31 - 1)
offsets = st.integers(0, 2**63 - 1)
times = st.integers(0, 2**53)
counts = st.integers(0, 10**6)
words = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", max_size=40)
strangers = st.dictionaries(
    st.sampled_from(
        ["source-partition", "source-offset", "source-timestamp", "attempt", "not-before", "deaths",
         "attempts", "error-code", "error-message", "traceparent", "replay-of", "x"]
    ),
    st.one_of(st.none(), st.binary(max_size=20), st.text(max_size=20), st.integers().map(str)),
)  # fmt: skip


@given(partition=partitions, offset=offsets, timestamp=times)
def test_the_source_of_a_result_is_read_back(partition: int, offset: int, timestamp: int) -> None:
    record = Record(partition, 1, offset, None, None, timestamp)
    headers = read_headers(result_headers(b"uploads", record, (), b"application/json", TRACE))
    assert SourcePosition.read(headers) == SourcePosition(partition, offset, timestamp)
    assert (headers["source-topic"], headers["content-type"]) == ("uploads", "application/json")
    assert read_traceparent(headers) == TRACE


@given(attempts=counts, not_before=times, code=words, deaths=counts)
def test_a_pending_retry_is_read_back(attempts: int, not_before: int, code: str, deaths: int) -> None:
    written = RetryHeaders(attempts, not_before, code, deaths)
    assert RetryHeaders.read(read_headers(written.pairs())) == written


@given(code=words, stage=words, message=st.text(), attempts=counts, model=words, omitted=st.booleans())
def test_a_dead_letter_is_read_back_with_its_message_escaped_and_bounded(
    code: str, stage: str, message: str, attempts: int, model: str, omitted: bool
) -> None:
    written = DeadLetterHeaders(code, stage, message, attempts, model, omitted)
    read = DeadLetterHeaders.read(read_headers(written.pairs()))
    assert (read.code, read.stage, read.attempts, read.model, read.omitted) == (
        code, stage, attempts, model, omitted,
    )  # fmt: skip
    assert read.message.isprintable()
    assert len(read.message) <= MAX_HEADER_TEXT
    if message.isprintable() and len(message) <= MAX_HEADER_TEXT:
        assert read.message == message


@given(
    partition=partitions, offset=offsets, timestamp=times,
    code=st.sampled_from(ERROR_CODES), seen=st.none() | offsets,
)  # fmt: skip
def test_a_replay_names_its_dead_letter_its_source_and_what_was_seen(
    partition: int, offset: int, timestamp: int, code: str, seen: int | None
) -> None:
    """And what says too little is an event like any other."""
    sent = ReplayHeaders(f"{partition}:{offset}", SourcePosition(partition, offset, timestamp), code, seen)
    headers = read_headers(sent.pairs())
    assert ReplayHeaders.read(headers) == sent
    assert replay_of(headers) == (partition, offset)
    for name in ("replay-of", "source-partition", "source-offset", "source-timestamp", "error-code"):
        assert ReplayHeaders.read({n: v for n, v in headers.items() if n != name}) is None
    assert ReplayHeaders.read({**headers, "error-code": "made up"}) is None


@given(strangers)
def test_whatever_strangers_write_is_read_or_refused(pairs: dict[str, object]) -> None:
    headers = read_headers(pairs)
    assert all(isinstance(text, str) for text in headers.values())
    source, replay = SourcePosition.read(headers), replay_of(headers)
    assert source is None or {"source-partition", "source-offset", "source-timestamp"} <= set(headers)
    assert replay is None or f"{replay[0]}:{replay[1]}" == ":".join(
        str(int(part)) for part in headers["replay-of"].split(":")
    )
    DeadLetterHeaders.read(headers)
    with contextlib.suppress(ValueError):  # anything else would end the worker
        RetryHeaders.read(headers)


def test_a_later_header_of_the_same_name_counts_and_text_that_is_none_is_left_out() -> None:
    assert read_headers([("a", b"1"), ("a", b"2"), ("b", b"\xff"), ("c", None)]) == {"a": "2"}
