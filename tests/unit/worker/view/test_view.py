"""The pure parts of the view: which records are tags, what the keys are called, what errors mean."""

from __future__ import annotations

import re

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from worker.messages.tag import TAXONOMY, Candidate, Tag
from worker.messages.text import format_time
from worker.telemetry.service_metrics import REDIS_ERRORS
from worker.view.client import trouble
from worker.view.keys import Keys
from worker.view.records import FUTURE_MS, read_record
from worker.view.sweep import Offsets

NOW = 1_795_000_000_000


def tag(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "id": "a",
        "cluster": 3,
        "name": "cats",
        "probability": 0.5,
        "candidates": (Candidate(3, "cats", 0.5),),
        "novel": False,
        "model": "m1",
        "taxonomy": "t1",
        "url": None,
        "uploaded_at": NOW,
        "tagged_at": NOW,
        "attributes": {},
    }
    fields.update(changes)
    return Tag(**fields).to_json()  # type: ignore[arg-type]


def test_a_tag_is_read() -> None:
    """A record keeps its place and its bytes, and knows its tag."""
    record = read_record(b"a", tag(), 2, 17, NOW)
    assert (record.id, record.partition, record.offset, record.value) == ("a", 2, 17, tag())
    assert record.tag is not None
    assert record.tag.cluster == 3


def test_a_tombstone_is_a_deletion() -> None:
    """A null value deletes the id that the key names, whatever characters it has."""
    record = read_record("ä\x00/:".encode(), None, 0, 1, NOW)
    assert (record.id, record.value, record.tag) == ("ä\x00/:", None, None)


@pytest.mark.parametrize(
    ("ahead", "counted"), [(-1000, -1000), (0, 0), (FUTURE_MS, FUTURE_MS), (10 * FUTURE_MS, FUTURE_MS)]
)
def test_the_future_is_bounded(ahead: int, counted: int) -> None:
    """An `uploaded_at` far beyond the record's own time counts as five minutes past that."""
    assert read_record(b"a", tag(uploaded_at=NOW + ahead), 0, 0, NOW).at == NOW + counted


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (None, tag(), "no key"),
        (b"", None, "no key"),
        (b"\xff", tag(), "not UTF-8"),
        (b"x" * 257, None, "257 characters"),
        (b"b", tag(), "not the tag's id"),
        (b"a", b"junk", "not a tag"),
        (b"a", b"[]", "not a tag"),
        (b"a", b"{}", "not a tag"),
        (b"a", tag(cluster="3"), "cluster"),
        (b"a", tag(cluster=True), "cluster"),
        (b"a", tag(cluster=-2), "cluster"),
        (b"a", tag(cluster=3.5), "cluster"),
        (b"a", tag(cluster=2**31), "cluster"),
        (b"a", tag(group="3"), "group"),
        (b"a", tag(group=True), "group"),
        (b"a", tag(group=-1), "group"),
        (b"a", tag(group=2**31), "group"),
        (b"a", tag(taxonomy="tag"), "taxonomy"),
        (b"a", tag(taxonomy="a:cluster:3"), "taxonomy"),
        (b"a", tag(taxonomy=""), "taxonomy"),
        (b"a", tag(taxonomy=7), "taxonomy"),
        (b"a", tag(name=7), "strings"),
        (b"a", tag(model=None), "strings"),
    ],
)
def test_what_is_not_a_tag_is_refused_with_its_reason(
    key: bytes | None, value: bytes | None, reason: str
) -> None:
    """Each wrong record raises ValueError, and nothing else, with a text for the log."""
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        read_record(key, value, 0, 0, NOW)
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 1000


@given(st.one_of(st.none(), st.binary(max_size=300)), st.one_of(st.none(), st.binary(max_size=300)))
def test_any_bytes_are_a_record_or_a_value_error(key: bytes | None, value: bytes | None) -> None:
    """Nothing that can stand in the topic raises anything but ValueError."""
    try:
        record = read_record(key, value, 0, 0, NOW)
    except ValueError:
        return
    assert record.id.encode() == key


NAMES = st.from_regex(TAXONOMY, fullmatch=True)
KEYS = Keys("p:")


@given(
    st.text(min_size=1, max_size=256), NAMES, NAMES, st.integers(-1, 2**31 - 1), st.integers(-1, 2**31 - 1)
)
def test_keys_are_never_mistaken_for_each_other(
    upload_id: str, one: str, other: str, cluster: int, its: int
) -> None:
    """No id, however chosen, gives a key that is a set, a name or a mark; two clusters have two keys."""
    fixed = [KEYS.taxonomy, KEYS.view, KEYS.clusters(one), KEYS.cluster(one, cluster)]
    assert len({KEYS.tag(upload_id), *fixed}) == 5
    assert (KEYS.cluster(one, cluster) == KEYS.cluster(other, its)) == ((one, cluster) == (other, its))


def test_keys_are_as_documented() -> None:
    """The names that other languages rely on."""
    keys = Keys()
    assert keys.tag("a b") == b"imgclust:tag:a b"
    assert keys.cluster("abc", -1) == b"imgclust:abc:cluster:-1"
    assert keys.clusters("abc") == b"imgclust:abc:clusters"
    assert (keys.taxonomy, keys.view) == (b"imgclust:taxonomy", b"imgclust:view")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (redis.ConnectionError("Error 111 connecting"), "away"),
        (redis.exceptions.BusyLoadingError("LOADING"), "away"),
        (redis.AuthenticationError("invalid password"), "away"),
        (redis.TimeoutError("Timeout reading from socket"), "timeout"),
        (redis.ResponseError("OOM command not allowed when used memory > 'maxmemory'."), "full"),
        (redis.ResponseError("Error running script: @user_script:9: OOM command not allowed when …"), "full"),
        (redis.exceptions.ReadOnlyError("You can't write against a read only replica."), "read-only"),
        (redis.ResponseError("READONLY You can't write against a read only replica."), "read-only"),
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "other"),
    ],
)
def test_errors_of_redis_have_bounded_kinds(error: redis.RedisError, kind: str) -> None:
    """Every error is one of the kinds that the metrics know."""
    assert kind in REDIS_ERRORS
    assert trouble(error).kind == kind


def test_times_are_compared_in_milliseconds() -> None:
    """The record's `at` is the tag's `uploaded_at` to the millisecond."""
    assert format_time(read_record(b"a", tag(uploaded_at=NOW + 7), 0, 0, NOW).at).endswith(".007Z")


@given(st.integers(0, 10**12), st.sets(st.integers(0, 5000)), st.lists(st.integers(-100, 6000)))
def test_offsets_are_a_set(start: int, added: set[int], asked: list[int]) -> None:
    """The bits say of every offset what a set would say, also of those before the start."""
    offsets = Offsets(start)
    for number in added:
        offsets.add(start + number)
    for number in [*asked, *added]:
        assert (start + number in offsets) == (number in added)
