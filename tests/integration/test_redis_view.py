"""Tag records in a real Redis, and the feed that reads them."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.redis_server import RedisServer, running
from tests.support.tag_records import apply, record
from tests.support.waiting import wait_for
from worker.demo.backends import free_ports
from worker.feed import Feed
from worker.messages.tag import Tag
from worker.reader.values import Cluster
from worker.view import sweep
from worker.view.client import RedisTrouble, connect
from worker.view.keys import Keys
from worker.view.records import FUTURE_MS
from worker.view.scripts import FORGET
from worker.view.store import DAY_MS, DELETED_DAYS, TAG_DAYS, Reached, Span, TagsView
from worker.view.sweep import ghosts, strays

pytestmark = pytest.mark.redis
NOW = 1_795_000_000_000  # ms; Redis expires by its own clock, so tests of expiry use that
KEYS = Keys()


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


def members(client: Any, cluster: int, taxonomy: str = "t1") -> list[str]:
    found: list[bytes] = client.zrange(KEYS.cluster(taxonomy, cluster), 0, -1)
    return [member.decode() for member in found]


def hash_of(client: Any, upload_id: str) -> dict[str, str]:
    raw: dict[bytes, bytes] = client.hgetall(KEYS.tag(upload_id))
    return {key.decode(): value.decode() for key, value in raw.items()}


def test_a_tag_is_written_as_documented(client: Any, now: int) -> None:
    """Hash, sorted set, names and taxonomy are what other languages' readers rely on."""
    view = TagsView(client)
    tagged = record("a", 17, now, 3, partition=2)
    assert apply(view, tagged) == (1, 0, 0)
    assert tagged.value is not None
    assert hash_of(client, "a") == {
        "tag": tagged.value.decode(), "position": "2:17", "taxonomy": "t1", "cluster": "3",
    }  # fmt: skip
    assert client.zrange("imgclust:t1:cluster:3", 0, -1, withscores=True) == [(b"a", float(now))]
    assert client.hgetall("imgclust:t1:clusters") == {b"3": b'{"name":"cats","model":"m1"}'}
    assert client.get("imgclust:taxonomy") == b"t1"
    assert client.pexpiretime(KEYS.tag("a")) == now + TAG_DAYS * DAY_MS


def test_another_prefix_is_another_view(client: Any, now: int) -> None:
    """Everything is under the prefix, so that systems can share a Redis."""
    apply(TagsView(client, "other:"), record("a", 0, now))
    assert all(key.startswith(b"other:") for key in client.scan_iter())
    assert Feed(client).latest(1).tags == ()
    assert [tag.id for tag in Feed(client, "other:").latest(1).tags] == ["a"]


def test_an_older_position_is_refused(client: Any, now: int) -> None:
    """A writer that slept changes nothing: neither the hash nor a set."""
    view = TagsView(client)
    apply(view, record("a", 5, now, 1))
    assert apply(view, record("a", 4, now, 2)) == (0, 1, 0)
    assert hash_of(client, "a")["cluster"] == "1"
    assert (members(client, 1), members(client, 2)) == (["a"], [])


def test_offsets_are_numbers(client: Any, now: int) -> None:
    """Offset 10 comes after 9, and large offsets are told apart."""
    view = TagsView(client)
    apply(view, record("a", 9, now, 1))
    assert apply(view, record("a", 10, now, 2)) == (1, 0, 0)
    apply(view, record("a", 2**52 + 1, now, 3))
    assert apply(view, record("a", 2**52, now, 4)) == (0, 1, 0)
    assert hash_of(client, "a")["cluster"] == "3"


def test_a_tag_that_moves_leaves_its_old_set(client: Any, now: int) -> None:
    """Another cluster or taxonomy takes the id over from the set where it was."""
    view = TagsView(client)
    apply(view, record("a", 1, now, 1))
    apply(view, record("a", 2, now, 2))
    apply(view, record("a", 3, now, 2, taxonomy="t2"))
    assert (members(client, 1), members(client, 2), members(client, 2, "t2")) == ([], [], ["a"])
    assert client.get("imgclust:taxonomy") == b"t1"  # set once; another is promoted by hand


def test_a_deletion_keeps_the_position_only(client: Any, now: int) -> None:
    """A deleted upload is in no set, has no tag, and cannot be brought back by an older record."""
    view = TagsView(client)
    apply(view, record("a", 1, now, 1))
    assert apply(view, record("a", 2, now, None)) == (1, 0, 0)
    assert hash_of(client, "a") == {"position": "0:2"}
    assert client.pexpiretime(KEYS.tag("a")) == now + DELETED_DAYS * DAY_MS
    assert members(client, 1) == []
    assert apply(view, record("a", 1, now, 1)) == (0, 1, 0)
    assert apply(view, record("a", 3, now, 1)) == (1, 0, 0)
    assert members(client, 1) == ["a"]


def test_a_set_that_a_crash_left_out_is_made_good_by_a_replay(client: Any, now: int) -> None:
    """The same record again puts the id into its set, if the first attempt died between hash and set."""
    view = TagsView(client)
    apply(view, record("a", 1, now, 1))
    client.zrem(KEYS.cluster("t1", 1), "a")
    apply(view, record("a", 1, now, 1))
    assert members(client, 1) == ["a"]


def test_an_expired_tag_is_kept_as_a_position(client: Any, now: int) -> None:
    """A tag older than 30 days is not shown, and what was there before it cannot come back."""
    view = TagsView(client)
    apply(view, record("a", 1, now, 1))
    old = now - (TAG_DAYS + 1) * DAY_MS
    apply(view, record("a", 2, now, 1, uploaded_at=old))
    assert hash_of(client, "a") == {"position": "0:2"}
    assert apply(view, record("a", 1, now, 1)) == (0, 1, 0)


def test_how_long_tags_are_kept_is_a_choice(client: Any, now: int) -> None:
    """With an hour, a tag expires an hour after its upload, its set has nothing older and goes away itself;
    one that is older already is kept as a position, as with 30 days."""
    view = TagsView(client, keep=3600, now=lambda: now / 1000)
    apply(view, record("old", 1, now, 1, uploaded_at=now - 3_600_001), record("new", 2, now, 1))
    assert client.pexpiretime(KEYS.tag("new")) == now + 3_600_000
    assert hash_of(client, "old") == {"position": "0:1"}
    assert members(client, 1) == ["new"]
    assert 3_500_000 < client.pttl(KEYS.cluster("t1", 1)) <= 3_600_000 + FUTURE_MS


def test_the_future_does_not_stay_on_top(client: Any, now: int) -> None:
    """A wrong clock counts as five minutes ahead: in the order, and for how long the tag is kept."""
    view = TagsView(client)
    apply(view, record("a", 1, now, 1, uploaded_at=now + 365 * DAY_MS))
    assert client.zscore(KEYS.cluster("t1", 1), "a") == now + FUTURE_MS
    assert client.pexpiretime(KEYS.tag("a")) == now + FUTURE_MS + TAG_DAYS * DAY_MS


def test_a_set_keeps_the_newest_and_nothing_expired(client: Any, now: int) -> None:
    """Sets are bounded by number and by age."""
    view = TagsView(client, set_size=3, now=lambda: now / 1000)
    client.zadd(KEYS.cluster("t1", 1), {"ancient": now - (TAG_DAYS + 1) * DAY_MS})
    apply(view, record("n0", 0, now))
    assert members(client, 1) == ["n0"]
    apply(view, *(record(f"n{n}", n, now + n) for n in range(1, 6)))
    assert members(client, 1) == ["n3", "n4", "n5"]


def test_names_follow_the_newest_tag(client: Any, now: int) -> None:
    """A replayed old tag does not bring back the name that an older model gave."""
    view = TagsView(client)
    apply(
        view,
        record("a", 1, now, 1, name="old", model="m1"),
        record("b", 2, now + 5, 1, name="new", model="m2"),
    )
    apply(view, record("c", 1, now + 1, 1, name="old", model="m1", partition=1))
    assert Feed(client).clusters() == {1: Cluster(1, "new", "m2")}


def test_groups_are_those_of_the_newest_tags(client: Any, now: int) -> None:
    """A cluster is in the group that its newest tag names; a feed of a group is one of its clusters."""
    view, feed = TagsView(client), Feed(client)
    apply(
        view,
        record("a", 1, now, 1, group=4),
        record("b", 2, now + 1, 2, group=0),
        record("c", 3, now + 2, 3, group=4),
        record("d", 4, now + 3, 5),
    )
    assert feed.groups() == {0: (2,), 4: (1, 3)}
    assert feed.clusters()[3].group == 4
    assert [tag.id for tag in feed.latest(feed.groups()[4]).tags] == ["c", "a"]
    assert feed.get(["a", "d"])["a"].group == 4
    assert feed.get(["d"])["d"].group is None
    apply(view, record("e", 5, now + 4, 3))
    assert feed.groups() == {0: (2,), 4: (1,)}


def test_ids_with_any_character(client: Any, now: int) -> None:
    """Ids are opaque: spaces, colons, braces, control characters, emoji."""
    ids = ["a b", "x:cluster:1", "{slot}", "\x00\n\x1b", "🐕", "'\"\\", "a" * 256]
    apply(TagsView(client), *(record(i, n, now + n) for n, i in enumerate(ids)))
    feed = Feed(client)
    assert list(feed.get(ids)) == ids
    assert [tag.id for tag in feed.latest(1).tags] == ids[::-1]


def test_somebody_elses_key_stops_nobody(client: Any, now: int) -> None:
    """A key of another type under our prefix costs that one tag, or that one set."""
    client.set(KEYS.tag("a"), "mine")
    client.set(KEYS.cluster("t1", 2), "mine")
    assert apply(TagsView(client), record("a", 0, now), record("b", 1, now), record("c", 2, now, 2)) == (
        2,
        0,
        1,
    )
    assert members(client, 1) == ["b"]
    assert Feed(client).get(["c"])["c"].cluster == 2


def test_scripts_are_loaded_again(client: Any, now: int) -> None:
    """A Redis that lost its scripts gets them, and no record is lost by that."""
    view = TagsView(client)
    apply(view, record("a", 0, now))
    client.script_flush()
    assert apply(view, record("b", 1, now)) == (1, 0, 0)
    assert members(client, 1) == ["a", "b"]


def test_how_far_redis_is(client: Any, now: int) -> None:
    """The mark advances only from where it is: nothing is claimed for a Redis that misses what is before."""
    view = TagsView(client)
    assert view.reached([0, 1]) == {0: Reached(), 1: Reached()}
    assert view.apply([], {0: Span(5, 9, now)}).reached == {0: -1}  # knows nothing: stays so
    assert view.reached([0]) == {0: Reached()}
    view.restart({0: Reached(0, now)})
    assert view.apply([record("a", 0, now)], {0: Span(0, 10, now + 5)}).reached == {0: 10}
    assert view.reached([0]) == {0: Reached(10, now + 5)}
    assert view.apply([], {0: Span(12, 20, now)}).reached == {0: 10}  # a gap: refused
    assert view.apply([], {0: Span(3, 8, now)}).reached == {0: 10}  # an older writer: nothing to do
    assert view.apply([], {0: Span(7, 11, now)}).reached == {0: 11}  # overlapping: fine
    assert view.reached([0]) == {0: Reached(11, now + 5)}  # the time never goes back


@pytest.mark.parametrize("damage", ["", "x", "5", "5:x", "-5:3", "5:3:1"])
def test_a_damaged_mark_means_knowing_nothing(client: Any, now: int, damage: str) -> None:
    """What is no mark is read as none, so that the view starts over."""
    client.hset(KEYS.view, "0", damage)
    view = TagsView(client)
    assert view.reached([0]) == {0: Reached()}
    assert view.apply([], {0: Span(0, 1, now)}).reached == {0: -1}


def test_other_commands_touch_one_key_each(client: Any, now: int) -> None:
    """Each command and script names one key, so that a Redis Cluster can take them anywhere."""
    commands: list[Sequence[object]] = []
    view = TagsView(client)
    execute = redis.client.Pipeline.execute

    def spy(self: redis.client.Pipeline, raise_on_error: bool = True) -> list[object]:
        commands.extend(command for command, _ in self.command_stack)
        return execute(self, raise_on_error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis.client.Pipeline, "execute", spy)
        apply(view, record("a", 0, now, 1), record("b", 1, now, 2))
        apply(view, record("a", 2, now, 2), record("b", 3, now, None))
    assert {str(command[0]) for command in commands} == {
        "EVALSHA", "ZADD", "ZREM", "ZREMRANGEBYSCORE", "ZREMRANGEBYRANK", "PEXPIRE", "HSET", "SET",
    }  # fmt: skip
    for command in commands:
        keys = client.command_getkeys(*command)
        assert len(keys) == 1, command


# --- any order ends in the same state ----------------------------------------------------------------------

HISTORY = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from([None, -1, 0, 1]), st.integers(0, 1)),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(history=HISTORY, seed=st.integers(0, 10**6), batch=st.integers(1, 5))
def test_any_order_and_repetition_ends_in_the_last_state(
    client: Any, now: int, history: list[tuple[str, int | None, int]], seed: int, batch: int
) -> None:
    """However records of an id are repeated and reordered, in whatever batches, by two writers: once all were
    written, each hash shows the last position, and the feed shows exactly what the hashes say."""
    client.flushall()
    records = [
        record(upload_id, offset, now + offset, cluster, taxonomy=f"t{taxonomy}")
        for offset, (upload_id, cluster, taxonomy) in enumerate(history)
    ]
    rng = random.Random(seed)
    stream = records + rng.choices(records, k=len(records))
    rng.shuffle(stream)
    writers = itertools.cycle([TagsView(client), TagsView(client)])
    while stream:
        apply(next(writers), *stream[:batch])
        del stream[:batch]
    last = {r.id: r for r in records}
    for upload_id, final in last.items():
        found = hash_of(client, upload_id)
        assert found["position"] == f"0:{final.offset}"
        assert found.get("tag", "").encode() == (final.value or b"")
    feed = Feed(client)
    assert feed.get("abc") == {i: r.tag for i, r in last.items() if r.tag is not None}
    for taxonomy, cluster in itertools.product(("t0", "t1"), (-1, 0, 1)):
        expected = [
            r.tag for r in last.values() if r.tag and (r.tag.taxonomy, r.tag.cluster) == (taxonomy, cluster)
        ]
        shown = feed.latest(cluster, taxonomy=taxonomy).tags
        assert sorted(shown, key=lambda t: t.id) == sorted(expected, key=lambda t: t.id)


# --- other readers ---------------------------------------------------------------------------------------


def test_redis_cli_reads_it_as_documented(server: RedisServer, client: Any, now: int) -> None:
    """The commands of docs/redis.md, given to redis-cli, give the pages that the feed gives."""
    cli = shutil.which("redis-cli")
    if cli is None:
        pytest.skip("redis-cli is not on the PATH (Debian: redis-tools)")

    def ask(*command: object) -> list[str]:
        words = [cli, "-p", str(server.port), *map(str, command)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()

    apply(TagsView(client), *(record(f"id{n}", n, now, 3, uploaded_at=now - n // 3) for n in range(12)))
    (taxonomy,) = ask("GET", "imgclust:taxonomy")
    assert ask("HGETALL", f"imgclust:{taxonomy}:clusters") == ["3", '{"name":"cats","model":"m1"}']
    key = f"imgclust:{taxonomy}:cluster:3"
    first = ask("ZREVRANGEBYSCORE", key, "+inf", "-inf", "WITHSCORES", "LIMIT", 0, 5)
    ids, last = first[::2], (int(first[-1]), first[-2])
    more = ask("ZREVRANGEBYSCORE", key, last[0], "-inf", "WITHSCORES", "LIMIT", 0, 20)
    ids += [i for i, score in zip(more[::2], more[1::2], strict=True) if (int(score), i) < last]
    assert ids == [tag.id for tag in Feed(client).latest(3).tags]
    (where, cluster, tag) = ask("HMGET", f"imgclust:tag:{ids[0]}", "taxonomy", "cluster", "tag")
    assert (where, cluster) == (taxonomy, "3")
    assert Tag.from_json(tag.encode()).id == ids[0]


def test_a_cluster_holds_it_all(now: int, client: Any) -> None:
    """View, feed and sweep work on a Redis Cluster of three, with a client that knows it."""
    cli = shutil.which("redis-cli")
    if cli is None:
        pytest.skip("redis-cli, which makes the cluster, is not on the PATH (Debian: redis-tools)")
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(running("--cluster-enabled", "yes", "--cluster-port", str(port)))
            for port in free_ports(3)
        ]
        nodes = [f"127.0.0.1:{server.port}" for server in servers]
        subprocess.run([cli, "--cluster", "create", *nodes, "--cluster-yes"], check=True, capture_output=True)
        wait_for("the cluster is up", lambda: all("cluster_state:ok" in _cluster_info(s) for s in servers))
        cluster: Any = redis.RedisCluster(host="127.0.0.1", port=servers[0].port)
        view, feed = TagsView(cluster), Feed(cluster)
        view.restart({0: Reached(0, now)})
        records = [record(f"id{n}", n, now, n % 3) for n in range(300)]
        assert view.apply(records, {0: Span(0, 300, now)}).reached == {0: 300}
        assert len(feed.get(f"id{n}" for n in range(300))) == 300
        assert {tag.id for tag in feed.latest(1, 300).tags} == {f"id{n}" for n in range(1, 300, 3)}
        assert sum(ghosts(cluster, KEYS, lambda _, offset: offset < 100)) == 100
        assert sum(strays(cluster, KEYS)) == 100
        assert all(server.client().dbsize() > 20 for server in servers)
        cluster.close()


def _cluster_info(server: RedisServer) -> str:
    return str(server.client().execute_command("CLUSTER", "INFO"))


# --- repairs -----------------------------------------------------------------------------------------------


def test_strays_are_removed(client: Any, now: int) -> None:
    """The sweep takes out of the sets what their hashes do not put there, in every taxonomy, and no more."""
    view = TagsView(client)
    apply(view, *(record(f"id{n}", n, now, n % 2) for n in range(30)))
    apply(view, record("elsewhere", 100, now, 1, taxonomy="t2"))
    client.zadd(KEYS.cluster("t1", 1), {"gone": now, "id0": now, "elsewhere": now})
    client.zadd(KEYS.cluster("t2", 0), {"id0": now})
    client.set("imgclust:x:cluster:text", "not ours")
    client.zadd("other:t1:cluster:1", {"id0": now})
    assert sum(strays(client, KEYS)) == 4
    assert sorted(members(client, 0)) == sorted(f"id{n}" for n in range(0, 30, 2))
    assert sorted(members(client, 1)) == sorted(f"id{n}" for n in range(1, 30, 2))
    assert (members(client, 0, "t2"), members(client, 1, "t2")) == ([], ["elsewhere"])
    assert client.zcard("other:t1:cluster:1") == 1


def test_a_stray_that_comes_home_meanwhile_stays(client: Any, now: int) -> None:
    """An id that another view puts into the set just while the sweep judges it is put back."""
    view, other = TagsView(client), TagsView(client)
    apply(view, record("a", 1, now, 2))
    client.zadd(KEYS.cluster("t1", 1), {"a": now})
    zrem = sweep._pipeline

    def between(client: Any, commands: Sequence[tuple[object, ...]]) -> list[object]:
        if commands and commands[0][0] == "ZREM":
            apply(other, record("a", 2, now, 1))
        return zrem(client, commands)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "_pipeline", between)
        assert sum(strays(client, KEYS)) == 0
    assert members(client, 1) == ["a"]
    assert members(client, 2) == []


def test_ghosts_are_removed_unless_they_changed(client: Any, now: int) -> None:
    """Only hashes at a position that is gone are removed, in a Redis with thousands of keys."""
    view = TagsView(client)
    apply(view, *(record(f"id{n}", n, now, partition=n % 2) for n in range(2000)))
    removed = sum(ghosts(client, KEYS, lambda partition, offset: partition == 1 and offset < 1000))
    assert removed == 500
    left = Feed(client).get(f"id{n}" for n in range(2000))
    assert set(left) == {f"id{n}" for n in range(2000) if n % 2 == 0 or n >= 1000}
    assert client.evalsha(client.script_load(FORGET.source), 1, KEYS.tag("id0"), "0:7") == 0
    assert client.exists(KEYS.tag("id0"))


@pytest.mark.parametrize("prefix", ["a*b:", "[x]?:", "back\\slash:"])
def test_a_prefix_is_no_pattern(client: Any, now: int, prefix: str) -> None:
    """Characters that mean something to SCAN are taken as they are."""
    keys = Keys(prefix)
    apply(TagsView(client, prefix), record("a", 0, now))
    apply(TagsView(client, "axb:"), record("a", 0, now))
    client.zadd(keys.cluster("t1", 1), {"stray": now})
    assert sum(strays(client, keys)) == 1
    assert sum(ghosts(client, keys, lambda p, o: True)) == 1
    assert client.exists("axb:tag:a")


# --- a Redis in trouble ------------------------------------------------------------------------------------


def test_a_full_redis_refuses_and_changes_nothing(now: int) -> None:
    """Out of memory is told as such; the hash is as it was; deletions still get through."""
    with running("--maxmemory-policy", "noeviction") as server:
        client = server.client()
        view = TagsView(client)
        apply(view, record("a", 1, now, 1))
        client.config_set("maxmemory", "1mb")
        with pytest.raises(RedisTrouble) as caught:
            apply(view, record("a", 2, now, 2))
        assert caught.value.kind == "full"
        assert hash_of(client, "a")["position"] == "0:1"
        assert apply(view, record("a", 3, now, None)) == (1, 0, 0)
        client.config_set("maxmemory", "0")
        assert apply(view, record("b", 4, now, 2)) == (1, 0, 0)


def test_a_read_only_replica_is_told_as_such(client: Any, now: int) -> None:
    """After a failover the old primary refuses writes: trouble, not an error of the record."""
    view = TagsView(client)
    apply(view, record("a", 1, now))
    client.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(RedisTrouble) as caught:
            apply(view, record("b", 2, now))
        assert caught.value.kind == "read-only"
    finally:
        client.replicaof("NO", "ONE")
    assert apply(view, record("b", 2, now)) == (1, 0, 0)


def test_a_frozen_redis_is_noticed_in_bounded_time(now: int) -> None:
    """A Redis that answers nothing is trouble after the timeout, and takes the same records later."""
    with running() as server:
        view = TagsView(connect(server.url, timeout=0.3))
        apply(view, record("a", 1, now))
        server.freeze()
        with pytest.raises(RedisTrouble) as caught:
            apply(view, record("b", 2, now))
        assert caught.value.kind == "timeout"
        server.thaw()
        assert apply(view, record("b", 2, now)) == (1, 0, 0)
        server.kill()
        with pytest.raises(RedisTrouble) as caught:
            apply(view, record("c", 3, now))
        assert caught.value.kind == "away"
