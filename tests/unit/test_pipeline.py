"""worker.pipeline on stand-ins for Kafka, the fetchers and inference: every upload ends once, and the last
event of an id wins. The same promises are tested on real brokers in tests/integration."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.consume import Record
from worker.fetchers import Failed, Job
from worker.inference import Predicted, Unencodable
from worker.messages import Tag
from worker.metrics import Metrics
from worker.offsets import PartitionOffsets
from worker.pipeline import Pipeline, Policy
from worker.publish import Result

POLICY = Policy(
    tags_topic="tags", dlq_topic="dlq", max_in_flight=8, commit_interval=0.0, retry_limit=3, retry_first=1.0,
    retry_max=10.0, tag_url=True,
)  # fmt: skip


class FakeConsumer:
    """One log per partition, owned until `revoke`; keeps what was committed, as a broker would."""

    def __init__(
        self, logs: dict[int, list[bytes | None]], on_leaving: Callable[[set[int], bool], None]
    ) -> None:
        self.logs = logs
        self.on_leaving = on_leaving
        self.committed: dict[int, tuple[int, str]] = dict.fromkeys(logs, (0, ""))
        self.owned: dict[int, PartitionOffsets] = {}
        self.epochs: dict[int, int] = {}
        self.read: dict[int, int] = {}
        self.paused = False
        self.closed = False

    def assign(self, partition: int) -> None:
        self.owned[partition] = PartitionOffsets(*self.committed[partition])
        self.epochs[partition] = self.epochs.get(partition, 0) + 1
        self.read[partition] = self.committed[partition][0]

    def revoke(self, partition: int, lost: bool) -> None:
        self.on_leaving({partition}, lost)
        if not lost:
            self.commit()
        del self.owned[partition]

    def poll(self, limit: int, timeout: float) -> list[Record]:
        records: list[Record] = []
        if self.paused:
            return records
        for partition, offsets in self.owned.items():
            while len(records) < limit and self.read[partition] < len(self.logs[partition]):
                offset = self.read[partition]
                self.read[partition] += 1
                if offsets.take(offset):
                    value = self.logs[partition][offset]
                    key = f"{partition}-{offset % 3}".encode() if value is None else None
                    records.append(Record(partition, self.epochs[partition], offset, key, value, 1000))
        return records

    def owns(self, partition: int, epoch: int) -> bool:
        return partition in self.owned and self.epochs[partition] == epoch

    @property
    def partitions(self) -> list[int]:
        return sorted(self.owned)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def done(self, record: Record) -> None:
        if self.owns(record.partition, record.epoch):
            self.owned[record.partition].done(record.offset)

    def commit(self, *, wait: bool = False) -> None:
        for partition, offsets in self.owned.items():
            state = offsets.uncommitted()
            if state is not None:
                self.committed[partition] = state
                offsets.committed(state)

    def report(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class FakePublisher:
    """Keeps results in order; acknowledges when told to."""

    def __init__(self, on_safe: Callable[[Record], None]) -> None:
        self.on_safe = on_safe
        self.results: list[Result] = []
        self.unacknowledged: list[Result] = []
        self.prompt = False  # whether polls acknowledge

    @property
    def waiting(self) -> int:
        return len(self.unacknowledged)

    def publish(self, result: Result) -> None:
        self.results.append(result)
        self.unacknowledged.append(result)

    def poll(self) -> None:
        if self.prompt:
            self.acknowledge(len(self.unacknowledged))

    def acknowledge(self, count: int) -> None:
        for _ in range(min(count, len(self.unacknowledged))):
            self.on_safe(self.unacknowledged.pop(0).source)

    def drop(self, partitions: set[int]) -> int:
        kept = [r for r in self.unacknowledged if r.source.partition not in partitions]
        dropped = len(self.unacknowledged) - len(kept)
        self.results = [r for r in self.results if r in kept or r not in self.unacknowledged]
        self.unacknowledged = kept
        return dropped

    def flush(self, timeout: float) -> bool:
        self.acknowledge(len(self.unacknowledged))
        return True


class FakeFetchers:
    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, jobs: list[Job]) -> None:
        self.jobs += jobs


@dataclasses.dataclass(frozen=True)
class FakeModel:
    version: str = "0123456789ab"
    taxonomy: str = "0123456789ab"


class World:
    """A pipeline and everything around it, moved by hand."""

    def __init__(self, logs: dict[int, list[bytes | None]], policy: Policy = POLICY) -> None:
        self.now = 0.0
        self.fetchers = FakeFetchers()
        self.metrics = Metrics()
        made: dict[str, object] = {}

        def consumer(on_leaving: Callable[[set[int], bool], None]) -> FakeConsumer:
            made["consumer"] = FakeConsumer(logs, on_leaving)
            return made["consumer"]  # type: ignore[return-value]

        def publisher(on_safe: Callable[[Record], None]) -> FakePublisher:
            made["publisher"] = FakePublisher(on_safe)
            return made["publisher"]  # type: ignore[return-value]

        self.pipeline = Pipeline(
            policy, connect_consumer=consumer, connect_publisher=publisher, fetchers=self.fetchers,  # type: ignore[arg-type]
            model=FakeModel(), names={1: "dogs"},
            clock=lambda: self.now, wall_ms=lambda: int(self.now * 1000),
            metrics=self.metrics, spread=lambda: 0.5,
        )  # fmt: skip
        self.consumer: FakeConsumer = made["consumer"]  # type: ignore[assignment]
        self.publisher: FakePublisher = made["publisher"]  # type: ignore[assignment]
        for partition in logs:
            self.consumer.assign(partition)

    def answer(self, index: int, how: str) -> None:
        """One of the open jobs comes back."""
        job = self.fetchers.jobs.pop(index % len(self.fetchers.jobs))
        if how == "tag":
            self.pipeline.on_predicted([Predicted(job.token, 1, 0.5, ((1, 0.5), (2, 0.25)), False)])
        elif how == "unencodable":
            self.pipeline.on_predicted([Unencodable(job.token, "boom")])
        else:
            transient = how == "transient"
            code = "fetch-timeout" if transient else "decode-failed"
            self.pipeline.on_failed([Failed(job.token, code, "fetch", "no", transient, None)])

    def settle(self) -> None:
        """Everything succeeds from here on, until nothing is left to do."""
        for _ in range(1000):
            self.pipeline.turn()
            while self.fetchers.jobs:
                self.answer(0, "tag")
            self.publisher.flush(0)
            self.now += 1.0
            unread = any(self.consumer.read[p] < len(self.consumer.logs[p]) for p in self.consumer.owned)
            if not (unread or self.pipeline.in_flight or len(self.pipeline._retries) or self.consumer.paused):
                self.pipeline.turn()
                return
        raise AssertionError("it never settles")

    def ends(self) -> dict[str, float]:
        return {o: self.metrics.value("imgclust_uploads_total", outcome=o) or 0.0
                for o in ("tagged", "deleted", "dead", "superseded")}  # fmt: skip


def upload(upload_id: str, url: str = "http://x/1.jpg") -> bytes:
    return orjson.dumps({"id": upload_id, "url": url})


events = st.one_of(
    st.sampled_from(["p-0", "p-1", "p-2"]).map(upload),  # few ids, so that they supersede one another
    st.just(b"not an event"),
    st.just(None),
    st.sampled_from(["p-0", "p-1"]).map(lambda i: orjson.dumps({"id": i, "deleted": True})),
)
steps = st.lists(
    st.one_of(
        st.just(("turn", 0)),
        st.tuples(st.sampled_from(["tag", "transient", "dead", "unencodable"]), st.integers(0, 20)),
        st.tuples(st.just("acknowledge"), st.integers(1, 5)),
        st.tuples(st.just("later"), st.integers(1, 5)),
        st.tuples(st.sampled_from(["revoke", "lose"]), st.integers(0, 1)),
    ),
    max_size=60,
)


def named(partition: int, event: bytes | None) -> bytes | None:
    """The same event with ids of its partition: all events of an id are in one."""
    return None if event is None else event.replace(b"p-", b"%d-" % partition)


@given(st.lists(events, max_size=25), st.lists(events, max_size=10), steps)
def test_every_upload_ends_and_the_last_event_of_an_id_wins(
    first: list[bytes | None], second: list[bytes | None], moves: list[tuple[str, int]]
) -> None:
    """Whatever fails, in whatever order results come back, and however often partitions go and return: in the
    end all offsets are committed, each bad event is a dead letter, and the last result of each id is that of
    its last event. Without a rebalance each event ends exactly once."""
    logs = {0: [named(0, e) for e in first], 1: [named(1, e) for e in second]}
    world = World(logs)
    rebalanced = False
    for move, n in moves:
        if move == "turn":
            world.pipeline.turn()
        elif move == "acknowledge":
            world.publisher.acknowledge(n)
        elif move == "later":
            world.now += n
        elif move in ("revoke", "lose"):
            rebalanced = True
            world.consumer.revoke(n, lost=move == "lose")
            world.pipeline.turn()
            world.consumer.assign(n)
        elif world.fetchers.jobs:
            world.answer(n, move)
    world.settle()

    for partition, log in logs.items():
        assert world.consumer.committed[partition] == (len(log), "")
    last_event: dict[str, int] = {}
    for partition, log in logs.items():
        for offset, event in enumerate(log):
            if event is None:
                last_event[f"{partition}-{offset % 3}"] = offset
            elif event != b"not an event":
                last_event[orjson.loads(event)["id"]] = offset
    last_result: dict[str, Result] = {}
    for result in world.publisher.results:
        if result.key is not None:
            last_result[result.key.decode()] = result
    assert set(last_result) == set(last_event)
    for upload_id, offset in last_event.items():
        assert last_result[upload_id].source.offset == offset
    if not rebalanced:
        assert sum(world.ends().values()) == sum(map(len, logs.values()))
        sources = Counter((r.source.partition, r.source.offset) for r in world.publisher.results)
        assert set(sources.values()) <= {1}


def test_a_tag_says_what_was_predicted() -> None:
    """The published tag has the prediction, the names of the model, and what the upload said."""
    world = World({0: [orjson.dumps({"id": "a", "url": "http://x/1.jpg", "attributes": {"k": 1}})]})
    world.settle()
    (result,) = world.publisher.results
    assert (result.topic, result.key, result.source.partition) == ("tags", b"a", 0)
    tag = Tag.from_json(result.value or b"")
    assert (tag.id, tag.cluster, tag.name, tag.probability, tag.url) == (
        "a",
        1,
        "dogs",
        0.5,
        "http://x/1.jpg",
    )
    assert [(c.cluster, c.name, c.score) for c in tag.candidates] == [(1, "dogs", 0.5), (2, None, 0.25)]
    assert tag.attributes == {"k": 1}


def test_urls_can_be_left_out_of_tags() -> None:
    """WORKER_TAG_URL=false: signed URLs do not travel further."""
    world = World(
        {0: [upload("a", "http://x/1.jpg?signature=s")]}, dataclasses.replace(POLICY, tag_url=False)
    )
    world.settle()
    assert b"signature" not in (world.publisher.results[0].value or b"")


def test_transient_failures_are_tried_again_and_then_given_up() -> None:
    """Three tries with growing delays, then a dead letter with their number and the value unchanged."""
    world = World({0: [upload("a")]})
    waits = []
    for _ in range(3):
        while not world.fetchers.jobs:
            world.pipeline.turn()
            world.now += 0.5
        waits.append(world.now)
        world.answer(0, "transient")
    world.pipeline.turn()
    (letter,) = world.publisher.results
    headers = dict(letter.headers)
    assert (letter.topic, letter.key, letter.value) == ("dlq", b"a", upload("a"))
    assert headers["error-code"] == b"fetch-timeout"
    assert headers["attempts"] == b"3"
    assert waits[2] - waits[1] > waits[1] - waits[0] >= 1.0


def test_not_found_is_given_up_at_once_when_the_upload_is_old() -> None:
    """A 404 is tried again only for an upload of the last ten minutes."""
    for age, ends in ((60, "retried"), (700, "dead")):
        world = World({0: [orjson.dumps({"id": "a", "url": "u", "uploaded_at": "1970-01-01T00:00:00Z"})]})
        world.now = float(age)
        world.pipeline.turn()
        job = world.fetchers.jobs.pop()
        world.pipeline.on_failed([Failed(job.token, "not-found", "fetch", "404", True, None)])
        world.pipeline.turn()
        assert len(world.publisher.results) == (0 if ends == "retried" else 1)


def test_retry_after_is_honoured() -> None:
    """A server that asks for more time gets it."""
    world = World({0: [upload("a")]})
    world.pipeline.turn()
    job = world.fetchers.jobs.pop()
    world.pipeline.on_failed([Failed(job.token, "fetch-failed", "fetch", "503", True, 7.0)])
    world.pipeline.turn()
    world.now = 6.9
    world.pipeline.turn()
    assert not world.fetchers.jobs
    world.now = 7.1
    world.pipeline.turn()
    assert len(world.fetchers.jobs) == 1


def test_reading_pauses_at_full_and_resumes_at_half() -> None:
    """Never more in flight than allowed, and the pause ends when half of it is done."""
    world = World({0: [upload(f"0-{n}") for n in range(30)]})
    for _ in range(5):
        world.pipeline.turn()
    assert len(world.fetchers.jobs) == POLICY.max_in_flight
    assert world.consumer.paused
    for _ in range(3):
        world.answer(0, "tag")
    world.publisher.flush(0)
    world.pipeline.turn()
    world.publisher.flush(0)
    world.pipeline.turn()
    assert world.consumer.paused
    world.answer(0, "tag")
    world.pipeline.turn()
    world.publisher.flush(0)
    world.pipeline.turn()
    assert not world.consumer.paused


def test_nothing_is_committed_before_the_broker_has_the_result() -> None:
    """The offset moves with the acknowledgement, not with the publication."""
    world = World({0: [upload("a")]})
    world.pipeline.turn()
    world.answer(0, "tag")
    world.pipeline.turn()
    assert world.publisher.results
    assert world.consumer.committed[0] == (0, "")
    world.publisher.flush(0)
    world.pipeline.turn()
    assert world.consumer.committed[0] == (1, "")


def test_drain_finishes_what_is_in_flight_and_takes_nothing_more() -> None:
    """After SIGTERM: what was being fetched is tagged and committed, what was not read stays."""
    world = World({0: [upload(f"0-{n}") for n in range(20)]})
    world.pipeline.turn()
    taken = len(world.fetchers.jobs)
    while world.fetchers.jobs:
        world.answer(0, "tag")
    world.publisher.prompt = True
    assert world.pipeline.drain(10.0, lambda: False)
    assert world.consumer.committed[0] == (taken, "")
    assert taken == POLICY.max_in_flight


def test_drain_leaves_what_cannot_be_finished_to_the_next_worker() -> None:
    """At the deadline it leaves; the unfinished offsets are not committed."""
    world = World({0: [upload("a"), upload("b")]})
    world.pipeline.turn()
    world.answer(1, "tag")

    def time_passes() -> bool:
        world.now += 1.0
        return False

    assert not world.pipeline.drain(5.0, time_passes)
    position, metadata = world.consumer.committed[0]
    assert position == 0
    assert metadata  # the one that was finished is not done again


@pytest.mark.parametrize("message", ["x" * 5000, "line\nbreak", "\x1b[31mred", "ünïcode"])
def test_error_texts_are_bounded_and_escaped(message: str) -> None:
    """Whatever an error says, the dead letter's header is one bounded line of printable ASCII."""
    world = World({0: [upload("a")]})
    world.pipeline.turn()
    job = world.fetchers.jobs.pop()
    world.pipeline.on_failed([Failed(job.token, "decode-failed", "decode", message, False, None)])
    world.pipeline.turn()
    text = dict(world.publisher.results[0].headers)["error-message"].decode()
    assert text.removesuffix("…").isascii()
    assert text.isprintable()
    assert len(text) <= 500
