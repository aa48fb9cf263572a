"""What readers of the feed rely on: the same tests for the stand-in and for a real Redis behind the view."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from tests.support.fake_feed import FakeFeed
from tests.support.redis_server import RedisServer, running
from worker.feed import Feed
from worker.messages.tag import Candidate, Tag
from worker.reader.values import Cluster
from worker.view.records import read_record
from worker.view.store import TagsView

Make = Callable[..., Feed]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running() as started:
        yield started


@pytest.fixture(params=["fake", pytest.param("redis", marks=pytest.mark.redis)])
def feed_of(request: pytest.FixtureRequest) -> Make:
    """Makes a feed that has some tags."""
    if request.param == "fake":
        return FakeFeed
    client = request.getfixturevalue("server").client()
    client.flushall()

    def make(*tags: Tag) -> Feed:
        records = [
            read_record(tag.id.encode(), tag.to_json(), 0, offset, tag.tagged_at)
            for offset, tag in enumerate(tags)
        ]
        TagsView(client).apply(records, {})
        return Feed(client)

    return make


NOW = 4_000_000_000_000  # far ahead: Redis expires by its own clock


def tag(upload_id: str, cluster: int = 3, ago: int = 0) -> Tag:
    at = NOW - ago
    candidates = (Candidate(cluster, "cats", 0.5),)
    return Tag(upload_id, cluster, "cats", 0.5, candidates, False, "m1", "t1", None, at, at + 7, {"n": ago})


def test_tags_are_got_by_id(feed_of: Make) -> None:
    """Those that are there, as they were written; the others are missing."""
    tags = [tag("a"), tag("b", cluster=-1)]
    feed = feed_of(*tags)
    assert feed.get(["b", "none", "a", "a"]) == {"a": tags[0], "b": tags[1]}
    assert feed.taxonomy() == "t1"


def test_without_tags_there_is_nothing(feed_of: Make) -> None:
    """No taxonomy, no cluster, empty pages."""
    feed = feed_of()
    assert feed.taxonomy() is None
    assert (feed.clusters(), feed.get(["a"]), feed.overview()) == ({}, {}, {})
    assert (feed.latest(3).tags, feed.latest(3).cursor) == ((), None)


def test_pages_are_newest_first_and_meet(feed_of: Make) -> None:
    """By time, then by id, backwards; each tag on one page; the last one has no cursor."""
    feed = feed_of(*(tag(f"{n}", ago=n // 2) for n in range(7)), tag("else", cluster=5))
    found, cursor = [], None
    while True:
        page = feed.latest(3, 3, cursor)
        found.append([tag.id for tag in page.tags])
        cursor = page.cursor
        if cursor is None:
            break
    assert found == [["1", "0", "3"], ["2", "5", "4"], ["6"]]


def test_a_full_last_page_is_the_last(feed_of: Make) -> None:
    """No cursor that leads to an empty page."""
    feed = feed_of(tag("a"), tag("b"))
    assert feed.latest(3, 2).cursor is None


def test_what_is_no_cursor_is_refused(feed_of: Make) -> None:
    """With a ValueError, before anything is read."""
    with pytest.raises(ValueError, match="cursor"):
        feed_of(tag("a")).latest(3, 2, "bad")


def test_clusters_have_names_and_numbers_in_order(feed_of: Make) -> None:
    """All that were tagged, "other" too, with the name and the model that tagged last."""
    feed = feed_of(tag("a", 7), tag("b", -1), tag("c", 3))
    assert feed.clusters() == {n: Cluster(n, "cats", "m1") for n in (-1, 3, 7)}
    assert list(feed.clusters()) == [-1, 3, 7]


def test_an_overview_counts_and_shows_the_newest(feed_of: Make) -> None:
    """Of each cluster: how many, how many since, and the newest."""
    feed = feed_of(*(tag(f"{n}", ago=n) for n in range(5)), tag("other", -1, ago=9))
    found = feed.overview(limit=2, since=NOW - 2)
    assert {n: (each.count, each.recent, [t.id for t in each.tags]) for n, each in found.items()} == {
        -1: (1, 0, ["other"]), 3: (5, 3, ["0", "1"]),
    }  # fmt: skip
    assert found[3].cluster == Cluster(3, "cats", "m1")


@pytest.mark.parametrize("side", ["fake", pytest.param("redis", marks=pytest.mark.redis)])
def test_a_redis_that_is_away_is_an_error_of_redis(side: str) -> None:
    """Every question raises the client library's own error."""
    if side == "fake":
        feed: Feed = FakeFeed(tag("a"))
        feed.away = True  # type: ignore[attr-defined]
    else:
        with running() as server:
            url = server.url
        feed = Feed.from_url(url)
    for ask in (feed.taxonomy, feed.clusters, feed.overview, lambda: feed.get(["a"]), lambda: feed.latest(3)):
        with pytest.raises(redis.ConnectionError):
            ask()
