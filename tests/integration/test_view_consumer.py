"""The view as it runs: a mock cluster or Apache Kafka on one side, a Redis that misbehaves on the other."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import redis
from confluent_kafka import OFFSET_END, Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from tests.support.kafka_cluster import make_anew, topic_id
from tests.support.redis_server import RedisServer, running
from tests.support.waiting import PATIENCE, wait_for
from worker.demo.backends import Kafka, MockKafka
from worker.feed import Feed
from worker.kafka.client_config import view_config
from worker.kafka.retention import DeleteRetention
from worker.kafka.topic_ids import TopicIds
from worker.messages.tag import Candidate, Tag
from worker.telemetry.health import Health
from worker.telemetry.metrics import Metrics
from worker.view.client import connect
from worker.view.consumer import ViewConsumer
from worker.view.keys import Keys
from worker.view.store import TagsView

pytestmark = pytest.mark.redis
PARTITIONS = 4  # the mock cluster's default
KEYS = Keys()


def eventually(happened: Callable[[], Any], what: str) -> None:
    def has_happened() -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(happened())
        return False

    wait_for(what, has_happened)


class Topic:
    """A topic of its own, and what its records say.

    On Apache Kafka its records are written in transactions, each followed by one that is aborted: the
    control records between them, and the aborted ones, must not disturb the view.
    """

    def __init__(self, kafka: Kafka) -> None:
        self.name = f"tags-{uuid.uuid4().hex[:8]}"
        self.group = f"{self.name}.view"
        self.servers = kafka.bootstrap
        kafka.create_topics([self.name], PARTITIONS)
        config = {"bootstrap.servers": self.servers, "log_level": 0}
        self._transactional = not isinstance(kafka, MockKafka)  # which shows aborted records to all
        self._producer = Producer(
            {**config, "transactional.id": self.name, "retry.backoff.ms": 5}
            if self._transactional
            else config
        )
        self._begin(first=True)
        self._observer = Consumer({**config, "group.id": self.group})
        self.tags: dict[str, Tag] = {}  # what a reader should see
        self.records = 0
        self.places: dict[str, tuple[int, int]] = {}  # key → partition and offset of its last record

    def _begin(self, first: bool = False) -> None:
        if self._transactional:
            if first:
                self._producer.init_transactions(PATIENCE)
            self._producer.begin_transaction()

    def send(self, key: str, value: bytes | None) -> None:
        """One record, in the partition of its key."""

        def delivered(error: object, message: Message) -> None:
            assert error is None
            self.places[key] = (message.partition() or 0, message.offset() or 0)

        partition = sum(key.encode()) % PARTITIONS
        self._producer.produce(self.name, value, key.encode(), partition, on_delivery=delivered)
        self.records += 1

    def tag(self, upload_id: str, cluster: int = 1) -> None:
        now = int(time.time() * 1000)
        candidates = (Candidate(cluster, "n", 0.5),)
        tag = Tag(upload_id, cluster, "n", 0.5, candidates, False, "m1", "t1", None, now, now, {})
        self.send(upload_id, tag.to_json())
        self.tags[upload_id] = tag

    def delete(self, upload_id: str) -> None:
        self.send(upload_id, None)
        self.tags.pop(upload_id)

    def flush(self) -> None:
        """Everything that was sent can be read now."""
        assert self._producer.flush(PATIENCE) == 0
        if self._transactional:
            self._producer.commit_transaction(PATIENCE)
            self._producer.begin_transaction()
            for partition in range(PARTITIONS):
                self._producer.produce(self.name, b"aborted", b"aborted", partition)
            self._producer.flush(PATIENCE)
            self._producer.abort_transaction(PATIENCE)
            self._producer.begin_transaction()

    def _asked(self, offset: int = 0) -> list[TopicPartition]:
        return [TopicPartition(self.name, partition, offset) for partition in range(PARTITIONS)]

    def committed(self) -> int:
        """The sum of the group's committed offsets (asked by a consumer that is no member)."""
        return sum(max(0, p.offset) for p in self._observer.committed(self._asked(), timeout=PATIENCE))

    def end(self) -> int:
        """The sum of the ends of the partitions."""
        ends = self._observer.offsets_for_times(self._asked(OFFSET_END), timeout=PATIENCE)
        return sum(end.offset for end in ends)

    def deletions(self) -> int:
        """How many deletions a reader finds in the topic."""
        config = {"bootstrap.servers": self.servers, "group.id": "none", "isolation.level": "read_committed"}
        reader = Consumer({**config, "enable.partition.eof": True, "log_level": 0})
        reader.assign(self._asked(0))
        found, ended = 0, 0
        while ended < PARTITIONS:
            for message in reader.consume(500, 1.0):
                if message.error() is not None:
                    ended += 1
                elif message.value() is None:
                    found += 1
        reader.close()
        return found

    def done(self) -> bool:
        """Whether the group has committed all."""
        return self.committed() == self.end()

    def make_anew(self) -> None:
        """Delete the topic, and make it once more, empty."""
        if self._transactional:
            self._producer.abort_transaction(PATIENCE)
        make_anew(self.servers, self.name)
        self._producer = Producer(
            {"bootstrap.servers": self.servers, "log_level": 0, "transactional.id": self.name}
        )
        self._begin(first=True)
        self.tags, self.records, self.places = {}, 0, {}

    def commit(self, offset: int) -> None:
        """Let the group stand at this offset in all partitions."""
        self._observer.commit(offsets=self._asked(offset), asynchronous=False)

    def close(self) -> None:
        self._observer.close()


@pytest.fixture
def topic(kafka: Kafka) -> Iterator[Topic]:
    made = Topic(kafka)
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running() as started:
        yield started


class Running:
    """A view in a thread, with its metrics."""

    def __init__(self, topic: Topic, server: RedisServer, protocol: str, **options: Any) -> None:
        self.metrics = Metrics()
        self.client = connect(server.url, timeout=0.5)
        kafka = {"bootstrap.servers": topic.servers, "log_level": 0}
        config = view_config(kafka, topic.group, protocol)
        options.setdefault("retention", DeleteRetention(kafka, topic.name))
        options.setdefault("ids", TopicIds(kafka, [topic.name]))
        self.view = ViewConsumer(config, topic.name, TagsView(self.client), metrics=self.metrics, **options)
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.view.run(self._stop)
        except BaseException as error:
            self.error = error

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.value(f"imgclust_view_{name}", **labels) or 0.0

    def records(self, outcome: str) -> float:
        return self.value("records_total", outcome=outcome)

    def lag(self) -> float:
        return sum(self.value("lag_records", partition=str(p)) for p in range(PARTITIONS))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End it, and show its error if it had one; may be called again."""
        self._stop.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.client.close()
        assert self.error is None


Start = Callable[..., Running]


@pytest.fixture
def start(topic: Topic, server: RedisServer) -> Iterator[Start]:
    """Starts views of the topic; all are stopped at the end."""
    started = []

    def begin(protocol: str = "consumer", **options: Any) -> Running:
        view = Running(topic, server, protocol, **options)
        started.append(view)
        view.start()
        return view

    yield begin
    for view in started:
        view.stop()


def shows(server: RedisServer, topic: Topic) -> bool:
    """Whether Redis shows exactly what the topic says: hashes, and the feed of each cluster."""
    feed = Feed(server.client())
    keys = [key.removeprefix(KEYS.tag("")).decode() for key in server.client().scan_iter(KEYS.tag("*"))]
    if feed.get({*keys, *topic.tags}) != topic.tags:
        return False
    for cluster in {tag.cluster for tag in topic.tags.values()}:
        expected = {tag.id for tag in topic.tags.values() if tag.cluster == cluster}
        if {tag.id for tag in feed.latest(cluster, 1000).tags} != expected:
            return False
    return True


def fill(topic: Topic, n: int = 200, prefix: str = "id") -> None:
    for number in range(n):
        topic.tag(f"{prefix}{number}", number % 3)
    topic.flush()


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_redis_follows_the_topic(topic: Topic, server: RedisServer, start: Start, protocol: str) -> None:
    """Tags, changes and deletions arrive; what is no tag is counted and stops nobody; all is committed."""
    fill(topic)
    topic.tag("id5", 2)
    topic.delete("id6")
    topic.send("id7", b"junk")
    topic.send("", b"no key")
    topic.flush()
    health = Health()
    view = start(protocol, health=health)
    eventually(lambda: shows(server, topic), "the view")
    eventually(lambda: topic.done(), "the commit")
    assert view.records("malformed") == 2
    assert view.records("applied") + view.records("stale") == topic.records - 2
    assert view.metrics.value("imgclust_stage_in_progress", stage="view") == 0
    assert view.value("redis_up") == 1
    assert view.value("rebuilds_total") == 0
    eventually(lambda: view.lag() == 0, "no lag")
    assert health.alive()[0]
    assert "view" in health.alive()[1]["loops"]
    topic.tag("later")
    topic.flush()
    eventually(lambda: shows(server, topic), "the later tag")


def test_a_restart_goes_on_where_it_was(topic: Topic, server: RedisServer, start: Start) -> None:
    """A second run of the group reads only what the first had not committed."""
    fill(topic, 100)
    first = start()
    eventually(lambda: shows(server, topic), "the view")
    first.stop()
    fill(topic, 10, "more")
    second = start()
    eventually(lambda: shows(server, topic) and topic.done(), "the rest")
    assert second.records("applied") == 10
    assert second.value("rebuilds_total") == 0


def _away(server: RedisServer) -> Callable[[], None]:
    server.kill()
    return server.start


def _frozen(server: RedisServer) -> Callable[[], None]:
    server.freeze()
    return server.thaw


def _full(server: RedisServer) -> Callable[[], None]:
    server.client().config_set("maxmemory", "1mb")
    return partial(server.client().config_set, "maxmemory", "0")


def _read_only(server: RedisServer) -> Callable[[], None]:
    server.client().replicaof("127.0.0.1", "1")
    return partial(server.client().replicaof, "NO", "ONE")


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [(_away, "away"), (_frozen, "timeout"), (_full, "full"), (_read_only, "read-only")],
)
def test_redis_in_trouble_delays_the_view(
    topic: Topic,
    server: RedisServer,
    start: Start,
    trouble: Callable[[RedisServer], Callable[[], None]],
    kind: str,
) -> None:
    """The view waits, stays in its group, commits nothing that is not in Redis, and catches up."""
    fill(topic)
    view = start()
    eventually(lambda: shows(server, topic), "the view")
    eventually(lambda: topic.done(), "the commit")
    before, owned = topic.committed(), dict(view.view._owned)
    mend = trouble(server)
    fill(topic, 50, "more")
    topic.delete("id3")
    topic.flush()
    eventually(lambda: view.value("errors_total", error_code=kind) >= 3, "the trouble")
    assert view.value("redis_up") == 0
    assert topic.committed() == before
    eventually(lambda: view.lag() == topic.end() - before, "the lag")
    eventually(lambda: view.value("lag_seconds") > 0, "the lag")
    mend()
    eventually(lambda: shows(server, topic), "catching up")
    eventually(lambda: topic.done(), "the commit")
    assert view.value("redis_up") == 1
    assert {p: id(state) for p, state in view.view._owned.items()} == {p: id(s) for p, s in owned.items()}


def test_a_view_starts_without_redis(topic: Topic, server: RedisServer, start: Start) -> None:
    """Redis being away at the start is waited for as well."""
    server.kill()
    fill(topic)
    view = start()
    eventually(lambda: view.value("errors_total", error_code="away") >= 2, "the trouble")
    server.start()
    eventually(lambda: shows(server, topic), "the view")


def test_an_emptied_redis_is_filled_again_while_idle(topic: Topic, server: RedisServer, start: Start) -> None:
    """FLUSHALL under a view with nothing to do is noticed by itself, and all tags come back."""
    fill(topic)
    view = start()
    eventually(lambda: shows(server, topic) and topic.done(), "the view")
    server.client().flushall()
    eventually(lambda: shows(server, topic), "the view again")
    assert view.value("rebuilds_total") == 1


def test_an_emptied_redis_is_filled_again_under_load(topic: Topic, server: RedisServer, start: Start) -> None:
    """The same between two batches: what is written next does not hide what is missing."""
    fill(topic)
    view = start()
    eventually(lambda: shows(server, topic) and topic.done(), "the view")
    view.view._next_check = float("inf")  # no idle check: the batch itself has to notice
    server.client().flushall()
    topic.tag("later")
    topic.flush()
    eventually(lambda: shows(server, topic), "the view again")
    assert view.value("rebuilds_total") >= 1


def test_a_redis_emptied_between_two_runs_is_filled(topic: Topic, server: RedisServer, start: Start) -> None:
    """The committed offset alone is not believed."""
    fill(topic)
    first = start()
    eventually(lambda: shows(server, topic) and topic.done(), "the view")
    first.stop()
    server.client().flushall()
    start()
    eventually(lambda: shows(server, topic), "the view again")


def test_a_redis_from_an_older_dump_gets_the_rest(topic: Topic, server: RedisServer, start: Start) -> None:
    """A Redis that comes back with what it had an hour ago is given what came since, and no more."""
    fill(topic, 100)
    view = start()
    eventually(lambda: shows(server, topic) and topic.done(), "the view")
    server.client().save()
    fill(topic, 30, "more")
    eventually(lambda: shows(server, topic) and topic.done(), "the rest")
    applied = view.records("applied")
    server.kill()
    server.start()
    assert server.client().exists(KEYS.tag("id0"))
    assert not server.client().exists(KEYS.tag("more0"))
    eventually(lambda: shows(server, topic), "the rest again")
    eventually(lambda: view.records("applied") == applied + 30, "the count")


def test_a_rebuild_on_demand(topic: Topic, server: RedisServer, start: Start) -> None:
    """`rebuild` writes everything anew, whatever happened to the keys."""
    fill(topic, 50)
    view = start()
    eventually(lambda: shows(server, topic) and topic.done(), "the view")
    client = server.client()
    client.delete(KEYS.tag("id1"), KEYS.cluster("t1", 2))
    assert not shows(server, topic)
    view.view.rebuild()
    eventually(lambda: shows(server, topic), "the view again")
    assert view.value("rebuilds_total") == 1


def test_views_share_the_work(topic: Topic, server: RedisServer, start: Start) -> None:
    """Two views of a group own the partitions between them; when one leaves the other takes over."""
    fill(topic, 100)
    one, two = start(), start()
    eventually(lambda: one.view._owned and two.view._owned, "sharing")
    eventually(lambda: len(one.view._owned) + len(two.view._owned) == PARTITIONS, "sharing")
    fill(topic, 100, "more")
    eventually(lambda: shows(server, topic), "the view")
    one.stop()
    fill(topic, 100, "even more")
    eventually(lambda: shows(server, topic), "the view of the one that stayed")
    assert set(two.view._owned) == set(range(PARTITIONS))


class AnHour(DeleteRetention):
    """A topic that keeps deletions for an hour."""

    def __init__(self) -> None:
        super().__init__({}, "")

    def seconds(self, timeout: float) -> float:
        return 3600.0


@pytest.mark.parametrize(("more", "rebuilds"), [(0, False), (4 * 25, True)])
def test_a_view_that_was_away_too_long_reads_all(
    topic: Topic, server: RedisServer, start: Start, more: int, rebuilds: bool
) -> None:
    """Away for longer than compaction keeps deletions, with something unread: from the start. With nothing
    unread nothing can have been missed."""
    fill(topic, 100)
    first = start()
    eventually(lambda: shows(server, topic) and topic.done(), "the view")
    first.stop()
    if more:
        fill(topic, more, "more")
    second = start(retention=AnHour(), now=lambda: time.time() + 2 * 3600)
    eventually(lambda: shows(server, topic) and second.value("redis_up") == 1, "the view again")
    eventually(lambda: topic.done(), "the commit")
    assert (second.value("rebuilds_total") > 0) == rebuilds
    assert second.records("applied") == (100 + more if rebuilds else 0)


def test_a_rebuild_removes_what_is_not_in_the_topic(topic: Topic, server: RedisServer, start: Start) -> None:
    """A tag whose deletion was compacted away unread is in Redis and not in the topic: a rebuild finds it."""
    fill(topic, 50)
    key = "lost"
    topic.send(key, b"no tag")  # stands for the record that compaction removed: there is no tag at its offset
    topic.flush()
    view = start()
    eventually(lambda: shows(server, topic) and topic.done(), "the view")
    partition, offset = topic.places[key]
    ghost = {"tag": topic.tags["id1"].to_json(), "taxonomy": "t1", "cluster": 1}
    server.client().hset(KEYS.tag("ghost"), mapping={**ghost, "position": f"{partition}:{offset}"})
    server.client().hset(KEYS.tag("newer"), mapping={**ghost, "position": f"{partition}:{offset + 1000}"})
    view.view.rebuild()
    eventually(lambda: not server.client().exists(KEYS.tag("ghost")), "the sweep")
    eventually(lambda: view.metrics.value("imgclust_view_swept_total") == 1, "the count")
    assert server.client().delete(KEYS.tag("newer")) == 1  # beyond what was read: not for the sweep to judge
    assert shows(server, topic)


def test_a_topic_that_was_made_anew(topic: Topic, server: RedisServer, start: Start) -> None:
    """When the topic is shorter than what was committed its offsets began again: the old tags are removed,
    and the new ones, which all have smaller offsets, are not refused."""
    fill(topic, 50)
    client = server.client()
    old = {"tag": b"{}", "taxonomy": "t1", "cluster": 1}
    for partition in range(PARTITIONS):
        client.hset(KEYS.tag(f"id{partition}"), mapping={**old, "position": f"{partition}:9000"})
        client.hset(KEYS.view, str(partition), "9001:1")
    topic.commit(9001)
    start()
    eventually(lambda: shows(server, topic), "the view of the new topic")
    eventually(lambda: topic.done(), "the commit")


@pytest.mark.parametrize("kafka", [pytest.param("apache", marks=pytest.mark.kafka)], indirect=True)
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("running", [True, False], ids=["while it runs", "while it is stopped"])
def test_a_topic_that_was_made_anew_and_has_grown_past_the_old_one(
    topic: Topic, server: RedisServer, start: Start, protocol: str, running: bool
) -> None:
    """Nothing but the topic's id tells it: the tags of the one that is gone are removed, and those of the new
    one, which have smaller offsets, are all there."""
    fill(topic, 20)
    view = start(protocol)
    eventually(lambda: shows(server, topic) and topic.done(), "the view of the first topic")
    if not running:
        view.stop()
    topic.make_anew()
    fill(topic, 60, "new")
    topic.tag("id3", 2)
    topic.flush()
    if not running:
        view = start(protocol)
    eventually(lambda: shows(server, topic) and topic.done(), "the view of the new topic")
    admin = AdminClient({"bootstrap.servers": topic.servers, "log_level": 0})
    assert set(server.client().hmget(KEYS.view, [f"topic:{p}" for p in range(PARTITIONS)])) == {
        topic_id(admin, topic.name).encode()
    }


def test_an_older_view_did_not_note_the_topic(topic: Topic, server: RedisServer, start: Start) -> None:
    """After an update the topic's id is added, and nothing is read again."""
    fill(topic, 50)
    first = start()
    eventually(lambda: shows(server, topic) and topic.done(), "the view")
    first.stop()
    fields = [f"topic:{partition}" for partition in range(PARTITIONS)]
    told = server.client().hmget(KEYS.view, fields)
    server.client().hdel(KEYS.view, *fields)
    second = start()
    eventually(lambda: server.client().hmget(KEYS.view, fields) == told, "the ids")
    topic.tag("id1", 2)
    topic.flush()
    eventually(lambda: shows(server, topic) and topic.done(), "the next tag")
    assert second.records("applied") == 1


def _compact_eagerly(topic: Topic) -> None:
    """Let Kafka forget this topic's deletions as soon as it can."""
    wanted = {
        "cleanup.policy": "compact",
        "delete.retention.ms": "200",
        "segment.ms": "1000",
        "min.cleanable.dirty.ratio": "0.001",
    }
    changes = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in wanted.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=changes)
    admin = AdminClient({"bootstrap.servers": topic.servers, "log_level": 0})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(PATIENCE)


@pytest.mark.slow
@pytest.mark.parametrize("kafka", [pytest.param("apache", marks=pytest.mark.kafka)], indirect=True)
def test_deletions_that_kafka_forgot(topic: Topic, server: RedisServer, start: Start) -> None:
    """Uploads are deleted while the view is away, and real compaction removes the deletions before it is
    back: the tags that are left over in Redis are found and removed."""
    _compact_eagerly(topic)
    fill(topic, 40)
    first = start()
    eventually(lambda: shows(server, topic) and topic.done(), "the view")
    first.stop()
    gone = [f"id{n}" for n in range(0, 40, 2)]
    for upload_id in gone:
        topic.delete(upload_id)
    topic.flush()
    deadline = time.monotonic() + 3 * PATIENCE  # the cleaner needs a few rounds
    while topic.deletions():
        assert time.monotonic() < deadline, "Kafka did not compact"
        fill(
            topic, 1, f"roll{topic.records}-"
        )  # a segment is closed, and then cleaned, when the next one begins
    assert len(Feed(server.client()).get(gone)) == len(gone)
    second = start(now=lambda: time.time() + 3600)
    eventually(lambda: shows(server, topic) and topic.done(), "the sweep")
    assert second.value("rebuilds_total") >= 1
    eventually(lambda: second.value("swept_total") == len(gone), "the count")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_after_any_troubles_redis_says_what_the_topic_says(
    topic: Topic, server: RedisServer, start: Start, seed: int
) -> None:
    """Redis killed, emptied, frozen, filled, restored from old dumps, views that come and go, rebuilds, all
    while tags change: in the end Redis shows exactly the topic, and all is committed."""
    rng = random.Random(seed)
    running_views = [start()]

    def change_tags() -> None:
        for _ in range(rng.randrange(1, 200)):
            upload_id = f"id{rng.randrange(200)}"
            if upload_id in topic.tags and rng.random() < 0.1:
                topic.delete(upload_id)
            else:
                topic.tag(upload_id, rng.randrange(4))
        topic.flush()

    def for_a_while(trouble: Callable[[RedisServer], Callable[[], None]]) -> None:
        mend = trouble(server)
        time.sleep(rng.random())
        mend()

    def leave() -> None:
        if len(running_views) > 1:
            running_views.pop(rng.randrange(len(running_views))).stop()

    def join() -> None:
        if len(running_views) < 3:
            running_views.append(start())

    events: list[Callable[[], object]] = [
        *[change_tags] * 6,
        *[partial(for_a_while, trouble) for trouble in (_away, _frozen, _full)],
        lambda: server.client().flushall(),
        lambda: server.client().save(),
        lambda: rng.choice(running_views).view.rebuild(),
        join,
        leave,
    ]
    for _ in range(40):
        rng.choice(events)()
        time.sleep(rng.random() / 4)
    eventually(lambda: shows(server, topic) and topic.done(), "agreement")
