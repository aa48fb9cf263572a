"""The feed over a real Redis: one class of tests for the blocking and the asyncio reader."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.redis_server import RedisServer, running
from tests.support.tag_records import apply, record
from worker.feed import AsyncFeed, Feed
from worker.view.keys import Keys
from worker.view.store import TagsView

pytestmark = pytest.mark.redis
KEYS = Keys()
Kind = Callable[..., Feed]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running() as started:
        yield started


@pytest.fixture
def client(server: RedisServer) -> Any:
    client = server.client()
    client.flushall()
    return client


@pytest.fixture
def now(client: Any) -> int:
    """Redis's time in ms, so that what is written does not expire at once."""
    seconds, micros = client.time()
    return int(seconds) * 1000 + int(micros) // 1000


class Awaited:
    """An AsyncFeed that is waited for: the methods of a Feed."""

    def __init__(self, runner: asyncio.Runner, feed: AsyncFeed) -> None:
        self._runner, self._feed = runner, feed

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._feed, name)
        return lambda *arguments, **options: self._runner.run(method(*arguments, **options))


@pytest.fixture(params=["Feed", "AsyncFeed"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Makes a reader of a server; `options` are the client's."""
    with asyncio.Runner() as runner:

        def make(server: RedisServer, prefix: str = "imgclust:", **options: Any) -> Feed:
            if request.param == "Feed":
                return Feed(server.client(**options), prefix)
            client = redis.asyncio.Redis(host="127.0.0.1", port=server.port, protocol=2, **options)
            return cast(Feed, Awaited(runner, AsyncFeed(client, prefix)))

        yield make


@pytest.fixture
def feed(kind: Kind, server: RedisServer) -> Feed:
    return kind(server)


def pages(feed: Feed, cluster: Any, limit: int, **options: Any) -> list[list[str]]:
    found, cursor = [], None
    while True:
        page = feed.latest(cluster, limit, cursor, **options)
        found.append([tag.id for tag in page.tags])
        cursor = page.cursor
        if cursor is None:
            return found


class TestFeed:
    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
    @given(times=st.lists(st.integers(0, 4), max_size=40), limit=st.integers(1, 12))
    def test_pages_show_each_member_once(
        self, feed: Feed, client: Any, now: int, times: list[int], limit: int
    ) -> None:
        """Paging shows every member exactly once, newest first, however many share a millisecond."""
        client.flushall()
        apply(TagsView(client), *(record(f"id{n}", n, now, uploaded_at=now - t) for n, t in enumerate(times)))
        found = pages(feed, 1, limit)
        assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)
        flat = [upload_id for page in found for upload_id in page]
        expected = sorted((-t, f"id{n}") for n, t in enumerate(times))[::-1]
        assert flat == [upload_id for _, upload_id in expected]

    def test_a_thousand_of_one_millisecond(self, feed: Feed, client: Any, now: int) -> None:
        """A bulk import with one time for all is paged completely."""
        apply(TagsView(client), *(record(f"id{n}", n, now) for n in range(1000)))
        flat = [upload_id for page in pages(feed, 1, 30) for upload_id in page]
        assert len(flat) == len(set(flat)) == 1000

    def test_paging_while_things_happen(self, feed: Feed, client: Any, now: int) -> None:
        """New tags come in and the cursor's own upload is deleted: what was there all along is shown once."""
        view = TagsView(client)
        apply(view, *(record(f"old{n:02}", n, now, uploaded_at=now - n // 4) for n in range(40)))
        first = feed.latest(1, 10)
        apply(view, *(record(f"new{n}", 100 + n, now, uploaded_at=now) for n in range(20)))
        apply(view, record(first.tags[-1].id, 200, now, None), record("old25", 201, now, 2))
        rest, cursor = [], first.cursor
        while cursor is not None:
            page = feed.latest(1, 7, cursor)
            rest += [tag.id for tag in page.tags]
            cursor = page.cursor
        stayed = {f"old{n:02}" for n in range(40)} - {"old25", first.tags[-1].id}
        shown = [tag.id for tag in first.tags[:-1]] + [i for i in rest if i.startswith("old")]
        assert sorted(shown) == sorted(stayed)

    def test_members_that_do_not_belong_are_left_out(self, feed: Feed, client: Any, now: int) -> None:
        """Ids whose hash is gone or names another cluster or taxonomy are no part of a page, which is full
        all the same."""
        view = TagsView(client)
        apply(view, *(record(f"id{n:02}", n, now + n) for n in range(20)), record("moved", 50, now, 2))
        key = KEYS.cluster("t1", 1)
        client.zadd(key, {"gone": now + 100, "moved": now + 101, "id05": now + 5})
        apply(view, record("elsewhere", 51, now, 1, taxonomy="t2"))
        client.zadd(key, {"elsewhere": now + 102})
        client.hset(KEYS.tag("id19"), "tag", "junk")
        client.hset(KEYS.tag("id18"), "cluster", "2")
        assert pages(feed, 1, 6) == [
            [f"id{n:02}" for n in range(17, 11, -1)],
            [f"id{n:02}" for n in range(11, 5, -1)],
            [f"id{n:02}" for n in range(5, -1, -1)],
        ]

    def test_a_page_takes_three_round_trips(self, feed: Feed, client: Any, now: int) -> None:
        """Taxonomy, set, hashes: one question each, however long the page."""
        apply(TagsView(client), *(record(f"id{n}", n, now + n) for n in range(300)))
        before = client.info("commandstats")
        feed.latest(1, 200)
        after = client.info("commandstats")
        calls = {name: after[name]["calls"] - before.get(name, {"calls": 0})["calls"] for name in after}
        assert calls["cmdstat_get"] == 1
        assert calls["cmdstat_zrevrangebyscore"] == 1
        assert calls["cmdstat_hmget"] <= 202

    def test_an_overview_is_what_the_pages_say(self, feed: Feed, client: Any, now: int) -> None:
        """For each cluster its size, how many are recent, and the newest as `latest` gives them, without
        members that are there by mistake; in four round trips for all clusters together."""
        records = [record(f"id{n:02}", n, now + n, cluster=n % 3 - 1, name=f"c{n % 3}") for n in range(60)]
        apply(TagsView(client), *records)
        client.hset(KEYS.tag("id58"), "cluster", "7")
        found = feed.overview(5, since=now + 30)
        assert {n: latest.cluster for n, latest in found.items()} == feed.clusters()
        assert {n: latest.tags for n, latest in found.items()} == {
            n: feed.latest(n, 5).tags for n in (-1, 0, 1)
        }
        assert [(latest.count, latest.recent) for latest in found.values()] == [(20, 10)] * 3
        assert "id58" not in [tag.id for tag in found[0].tags]
        with pytest.raises(ValueError, match="limit must be 1 to 1000, got 0"):
            feed.overview(0)

    def test_an_empty_redis_is_an_empty_feed(self, feed: Feed, client: Any) -> None:
        """Before the first tag there is nothing, and no error."""
        assert feed.taxonomy() is None
        assert feed.get(["a"]) == {}
        assert feed.latest(1).tags == ()
        assert feed.clusters() == {}
        assert feed.overview() == {}

    @pytest.mark.parametrize("decode", [True, False])
    def test_both_kinds_of_clients_read(
        self, kind: Kind, server: RedisServer, client: Any, now: int, decode: bool
    ) -> None:
        """A client with decode_responses, as web applications often have one, reads the same."""
        apply(TagsView(client), record("ä", 0, now), record("b", 1, now + 1), record("c", 2, now + 2))
        feed = kind(server, decode_responses=decode)
        assert feed.get(["ä"])["ä"].attributes == {"n": 0}
        assert pages(feed, 1, 1) == [["c"], ["b"], ["ä"]]
        assert feed.clusters()[1].name == "cats"

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
    @given(
        uploads=st.lists(st.tuples(st.integers(0, 6), st.integers(-1, 4)), max_size=60),
        chosen=st.one_of(st.none(), st.lists(st.integers(-1, 6), max_size=5)),
        without=st.lists(st.integers(-1, 4), max_size=2),
        seen=st.sets(st.integers(0, 59)),
        limit=st.integers(1, 12),
    )
    def test_several_clusters_are_one_sequence(
        self,
        feed: Feed,
        client: Any,
        now: int,
        uploads: list[tuple[int, int]],
        chosen: list[int] | None,
        without: list[int],
        seen: set[int],
        limit: int,
    ) -> None:
        """Whatever clusters are asked for and left out, whatever was seen, and however many share a
        millisecond: the pages are all the others, once each, newest first, and full but for the last."""
        client.flushall()
        records = [
            record(f"id{n:02}", n, now, cluster, uploaded_at=now - t)
            for n, (t, cluster) in enumerate(uploads)
        ]
        apply(TagsView(client), *records)
        found = pages(feed, chosen, limit, without=without, seen={f"id{n:02}" for n in seen})
        assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)
        expected = [
            (-t, f"id{n:02}")
            for n, (t, cluster) in enumerate(uploads)
            if (chosen is None or cluster in chosen) and cluster not in without and n not in seen
        ]
        assert [i for page in found for i in page] == [i for _, i in sorted(expected)[::-1]]

    def test_unknown_is_not_empty(self, feed: Feed, client: Any, now: int) -> None:
        """A cluster that no upload was ever in is named as such; one that lost its last upload is not."""
        view = TagsView(client)
        apply(view, record("a", 0, now, 1), record("b", 1, now, 2))
        apply(view, record("b", 2, now, 1))
        assert feed.latest(2).tags == feed.latest(3).tags == ()
        assert (feed.latest(2).unknown, feed.latest(3).unknown) == ((), (3,))
        page = feed.latest([1, 2, 3, 4])
        assert {tag.id for tag in page.tags} == {"a", "b"}
        assert page.unknown == (3, 4)

    def test_only_what_is_newer_than_a_page(self, feed: Feed, client: Any, now: int) -> None:
        """`until` a page's beginning gives what came in since, across several pages; nothing gives nothing,
        and the same mark again."""
        view = TagsView(client)
        apply(view, *(record(f"a{n}", n, now, n % 2, uploaded_at=now - 50 + n) for n in range(10)))
        first = feed.latest(limit=4)
        assert feed.latest(until=first.newest).tags == ()
        assert feed.latest(until=first.newest).newest == first.newest
        apply(view, *(record(f"b{n}", 20 + n, now, n % 2, uploaded_at=now - n) for n in range(5)))
        assert pages(feed, None, 2, until=first.newest) == [["b0", "b1"], ["b2", "b3"], ["b4"]]

    def test_a_cursor_belongs_to_its_question(self, feed: Feed, client: Any, now: int) -> None:
        """With other clusters, or others left out, a cursor is refused instead of giving a wrong page."""
        apply(TagsView(client), *(record(f"id{n}", n, now + n, n % 3) for n in range(9)))
        cursor = feed.latest([0, 1], 2, without=[2]).cursor
        assert feed.latest([1, 0], 2, cursor, without=[2]).tags
        for clusters, without in ((None, [2]), ([0], [2]), ([0, 1], [])):
            with pytest.raises(
                ValueError, match="the cursor is of cluster 0, 1 without 2 in taxonomy t1, not"
            ):
                feed.latest(clusters, 2, cursor, without=without)

    def test_many_clusters_take_few_round_trips(self, feed: Feed, client: Any, now: int) -> None:
        """A page of a hundred clusters asks each once for a few members, not once for all of a page."""
        records = [record(f"id{n:04}", n, now + n, n * 7 % 100) for n in range(2000)]
        apply(TagsView(client), *records)
        before = client.info("commandstats")
        page = feed.latest(limit=50)
        after = client.info("commandstats")
        assert [tag.id for tag in page.tags] == [f"id{n:04}" for n in range(1999, 1949, -1)]
        calls = {
            name: after[f"cmdstat_{name}"]["calls"] - before.get(f"cmdstat_{name}", {"calls": 0})["calls"]
            for name in ("zrevrangebyscore", "hmget")
        }
        assert calls["zrevrangebyscore"] <= 130
        assert calls["hmget"] <= 110

    def test_compact_and_full_tags_are_read_alike(self, feed: Feed, client: Any, now: int) -> None:
        """While a view changes from one form to the other both are there: `get` and pages give both, with
        the names of their clusters; a compact one lacks URL and attributes, and that alone."""
        full = [record(f"id{n}", n, now + n, n % 2, name=f"name {n % 2}") for n in range(10)]
        apply(TagsView(client), *full[:5])
        apply(TagsView(client, packed=True), *full[5:])
        expected = {}
        for each in full:
            assert each.tag is not None
            candidates = tuple(
                dataclasses.replace(c, score=pytest.approx(c.score, abs=1e-5)) for c in each.tag.candidates
            )
            expected[each.id] = (each.tag.cluster, each.tag.name, candidates, each.tag.uploaded_at)
        found = feed.get(expected)
        shown = {tag.id: tag for tag in feed.latest(limit=20).tags}
        assert shown == found
        assert {
            i: (tag.cluster, tag.name, tag.candidates, tag.uploaded_at) for i, tag in found.items()
        } == expected
        assert [found[f"id{n}"].attributes for n in (4, 5)] == [{"n": 4}, {}]
        client.hset(KEYS.tag("id6"), "tag", b"\x01junk")
        assert "id6" not in feed.get(expected)
