"""What a feed is: it refuses wrong questions, and loads little."""

from __future__ import annotations

import subprocess
import sys

import pytest
import redis

from worker.feed import Feed
from worker.reader.cursor import Cursor, Place, Selection


def test_a_wrong_question_is_refused_before_redis_is_asked() -> None:
    """Limits out of range, and a cursor of another cluster or taxonomy, are errors of the caller."""
    feed = Feed(redis.Redis(host="127.0.0.1", port=1))
    for limit in (0, -1, 1001):
        with pytest.raises(ValueError, match="limit must be 1 to 1000"):
            feed.latest(3, limit)
    cursor = Cursor("t1", Selection.of(4), Place(1, b"a")).encode()
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
