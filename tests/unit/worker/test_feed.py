"""The pure part of the feed: its cursor, and what it loads."""

from __future__ import annotations

import base64
import subprocess
import sys

import orjson
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from worker.feed import Feed, _Cursor, _Place
from worker.messages.tag import TAXONOMY


@given(
    st.from_regex(TAXONOMY, fullmatch=True),
    st.integers(-1, 2**31 - 1),
    st.integers(-(2**53), 2**53),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256),
)
def test_a_cursor_comes_back_as_it_was(taxonomy: str, cluster: int, score: int, member: str) -> None:
    """Any place survives the way through a client's URL; the text needs no escaping there."""
    cursor = _Cursor(taxonomy, cluster, _Place(score, member.encode()))
    text = cursor.encode()
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert _Cursor.decode(text) == cursor


def _encoded(value: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode().rstrip("=")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "!!!",
        "ä",
        "A" * 10_000,
        None,
        7,
        _encoded([]),
        _encoded({"a": 1}),
        _encoded([1, "t", 3, 5]),
        _encoded([2, "t", 3, 5, "id"]),
        _encoded([1, "t", 3, 5.5, "id"]),
        _encoded([1, "t", "3", 5, "id"]),
        _encoded([1, "t:x", 3, 5, "id"]),
        _encoded([1, "t", True, 5, "id"]),
        _encoded([1, "t", 3, 5, "i" * 257]),
        _encoded([1, "t", 3, 5, None]),
    ],
)
def test_a_forged_cursor_is_refused(text: str) -> None:
    """A cursor comes back from outside: what was not made here is a ValueError that says what to do."""
    with pytest.raises(ValueError, match="not a cursor"):
        _Cursor.decode(text)


@given(st.text(max_size=200))
def test_any_text_is_a_cursor_or_a_value_error(text: str) -> None:
    """No text raises anything else."""
    try:
        cursor = _Cursor.decode(text)
    except ValueError:
        return
    assert _Cursor.decode(cursor.encode()) == cursor


def test_a_wrong_question_is_refused_before_redis_is_asked() -> None:
    """Limits out of range, and a cursor of another cluster or taxonomy, are errors of the caller."""
    feed = Feed(redis.Redis(host="127.0.0.1", port=1))
    for limit in (0, -1, 1001):
        with pytest.raises(ValueError, match="limit must be 1 to 1000"):
            feed.latest(3, limit)
    cursor = _Cursor("t1", 4, _Place(1, b"a")).encode()
    with pytest.raises(ValueError, match="cluster 4"):
        feed.latest(3, cursor=cursor)
    with pytest.raises(ValueError, match="taxonomy t1"):
        feed.latest(4, cursor=cursor, taxonomy="t2")


def test_a_reader_needs_neither_kafka_nor_torch() -> None:
    """Importing the feed loads no Kafka client, no torch, no numpy: a web server can afford it."""
    code = (
        "import sys, worker.feed;"
        "print(sorted({'confluent_kafka', 'torch', 'numpy', 'umap', 'prometheus_client'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
