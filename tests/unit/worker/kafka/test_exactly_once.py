"""worker.kafka.exactly_once: one reaction for each kind of error, and every result exactly once whatever
fails.

The broker here is a model: it keeps what was committed and nothing else. The same promises are tested on
Apache Kafka in tests/integration and tests/faults.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import StartError
from worker.kafka.client_config import transaction_config
from worker.kafka.delivery import Result
from worker.kafka.exactly_once import AGAIN_MAX, ExactlyOnce, State
from worker.messages.record import Record
from worker.telemetry.metrics import Metrics

Error = dict[str, Any]
ABORTABLE: Error = {"error": KafkaError.ILLEGAL_GENERATION, "txn_requires_abort": True}
FATAL: Error = {"error": KafkaError._FENCED, "fatal": True}
TIMED_OUT: Error = {"error": KafkaError._TIMED_OUT, "retriable": True}
REFUSED: Error = {"error": KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED}


@dataclasses.dataclass
class Broker:
    """What is committed, and the script of what goes wrong: an error and whether the call took effect."""

    log: list[tuple[str, int]]
    offsets: dict[int, str]  # partition → mark
    script: dict[str, deque[tuple[Error | None, bool]]]
    calls: list[str]
    open: tuple[list[Result], dict[int, str]] | None = None

    def call(self, name: str) -> bool:
        """Raises what the script says; whether the call has its effect."""
        self.calls.append(name)
        if not self.script.get(name):
            return True
        error, effect = self.script[name].popleft()
        if error is not None and not effect:
            raise KafkaException(KafkaError(**error))
        self.after = error
        return True

    def answered(self) -> None:
        error, self.after = self.after, None
        if error is not None:
            raise KafkaException(KafkaError(**error))

    after: Error | None = None

    def commit(self) -> None:
        if self.open is not None:
            records, offsets = self.open
            self.log += [(r.topic, r.source.offset) for r in records]
            self.offsets.update(offsets)
        self.open = None


class FakeProducer:
    broker: Broker

    def __init__(self, config: dict[str, Any], **_: object) -> None:
        self.records: list[Result] = []
        self.ready = self.purged = False

    def init_transactions(self, timeout: float) -> None:
        assert not self.ready
        self.broker.call("init")
        self.broker.open = None  # what the last producer left open is aborted
        self.ready = True
        self.broker.answered()

    def begin_transaction(self) -> None:
        self.broker.call("begin")
        self.broker.open = ([], {})
        self.broker.answered()

    def produce(self, topic: str, *, on_delivery: Any, **_: object) -> None:
        self.broker.call("produce")
        _, result = on_delivery.args
        assert self.broker.open is not None
        self.broker.open[0].append(result)
        self.broker.answered()

    def send_offsets_to_transaction(self, offsets: Any, member: object, timeout: float) -> None:
        self.broker.call("send")
        assert self.broker.open is not None
        self.broker.open[1].update(offsets)
        self.broker.answered()

    def commit_transaction(self, timeout: float) -> None:
        self.broker.call("commit")
        self.broker.commit()
        self.broker.answered()

    def abort_transaction(self, timeout: float) -> None:
        self.broker.call("abort")
        self.broker.open = None
        self.broker.answered()

    def poll(self, timeout: float) -> int:
        return 0

    def purge(self) -> None:
        self.purged = True


@dataclasses.dataclass
class FakeSnapshot:
    states: tuple[int, ...]
    offsets: dict[int, str]
    member: bytes = b"member"


class FakeConsumer:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.owned = {0: 1, 1: 1}  # partition → epoch
        self.done_: set[tuple[int, int]] = set()
        self.said: set[tuple[int, int]] = set()
        self.is_member = True
        self.left: set[int] = set()  # partitions that a transaction gave up in order

    def owns(self, partition: int, epoch: int) -> bool:
        return self.owned.get(partition) == epoch

    def done(self, record: Record) -> None:
        self.done_.add((record.partition, record.offset))

    @property
    def uncommitted(self) -> bool:
        return bool(self.done_ - self.said)

    @property
    def partitions(self) -> list[int]:
        return sorted(self.owned)

    def snapshot(self, mark: str, also: set[int], leaving: set[int]) -> FakeSnapshot | None:
        if not self.is_member:
            return None
        changed = {partition for partition, _ in self.done_ - self.said}
        self.left |= leaving
        states = tuple(sorted((also | changed | leaving) & set(self.owned)))
        return FakeSnapshot(states, dict.fromkeys(states, mark))

    def committed(self, snapshot: FakeSnapshot) -> None:
        self.said |= self.done_

    def not_committed(self, snapshot: FakeSnapshot) -> None:
        self.said = set()

    def wrote(self, snapshot: FakeSnapshot, mark: str) -> bool | None:
        self.broker.call("ask")
        for partition in snapshot.states:
            if partition in self.owned:
                return self.broker.offsets.get(partition) == mark
        return None


class Bench:
    def __init__(self, **script: list[tuple[Error | None, bool]]) -> None:
        self.broker = Broker([], {}, {name: deque(steps) for name, steps in script.items()}, [])
        self.consumer = FakeConsumer(self.broker)
        self.metrics = Metrics()
        self.now = 0.0
        producer = type("P", (FakeProducer,), {"broker": self.broker})
        patch = pytest.MonkeyPatch()
        patch.setattr("worker.kafka.exactly_once.Producer", producer)
        patch.setattr("worker.kafka.exactly_once.time.sleep", self.sleep)
        self.undo = patch.undo
        self.delivery = ExactlyOnce(
            transaction_config({"bootstrap.servers": "b:1"}, "id"), "uploads", self.consumer, interval=0.05,  # type: ignore[arg-type]
            metrics=self.metrics, clock=lambda: self.now,
        )  # fmt: skip

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def publish(self, offset: int, partition: int = 0, epoch: int = 1) -> None:
        self.delivery.publish(Result("tags", b"k", b"v", Record(partition, epoch, offset, b"k", b"v", 7)))

    def turns(self, count: int = 1) -> None:
        for _ in range(count):
            self.delivery.run_once()
            self.now += AGAIN_MAX

    def commits(self, outcome: str) -> float:
        return self.metrics.value("imgclust_commits_total", outcome=outcome) or 0.0


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Any:
    made = []

    def make(**script: list[tuple[Error | None, bool]]) -> Bench:
        made.append(Bench(**script))
        return made[-1]

    yield make
    for one in made:
        one.undo()


def test_results_and_offsets_are_one_transaction(bench: Any) -> None:
    """Begun when results are there, never before; then run to its end at once."""
    b = bench()
    b.turns(2)
    assert b.broker.calls == ["init"]
    b.publish(1)
    b.publish(2, partition=1)
    b.turns()
    assert b.broker.calls[1:] == ["begin", "produce", "produce", "send", "commit"]
    assert b.broker.log == [("tags", 1), ("tags", 2)]
    assert set(b.broker.offsets) == {0, 1}
    assert (b.delivery.waiting, b.delivery.waiting_bytes) == (0, 0)
    assert b.commits("committed") == 1


def test_what_follows_waits_for_the_interval(bench: Any) -> None:
    """One result alone goes at once; those that follow are gathered for WORKER_COMMIT_INTERVAL."""
    b = bench()
    b.turns()
    b.publish(1)
    b.turns()
    b.now -= AGAIN_MAX
    b.publish(2)
    b.delivery.run_once()
    assert len(b.broker.log) == 1
    b.now += 0.05
    b.delivery.run_once()
    assert len(b.broker.log) == 2


@pytest.mark.parametrize("call", ["produce", "send", "commit"])
def test_an_abortable_error_publishes_the_same_again(bench: Any, call: str) -> None:
    """The membership changed, say: abort, then the same results in another transaction."""
    b = bench(**{call: [(ABORTABLE, False)]})
    b.publish(1)
    b.turns(5)
    assert "abort" in b.broker.calls
    assert b.broker.log == [("tags", 1)]
    assert (b.commits("aborted"), b.commits("committed")) == (1, 1)


def test_a_commit_without_an_answer_is_asked_for_again(bench: Any) -> None:
    """Not aborted, not published again: the same call, until the broker says what became of it."""
    b = bench(commit=[(TIMED_OUT, False), (TIMED_OUT, True)])
    b.publish(1)
    b.turns(5)
    assert b.broker.calls.count("commit") == 3
    assert "abort" not in b.broker.calls
    assert b.broker.log == [("tags", 1)]


@pytest.mark.parametrize(("effect", "produced"), [(True, 1), (False, 2)])
def test_after_a_fatal_error_the_broker_is_asked(bench: Any, effect: bool, produced: int) -> None:
    """Fenced in the middle of a commit: a new producer, and the mark in the committed metadata tells whether
    the results are there. Published again only if not."""
    b = bench(commit=[(FATAL, effect)])
    b.publish(1)
    b.turns(6)
    assert b.broker.calls.count("init") == 2
    assert b.broker.calls.count("ask") == 1
    assert b.broker.calls.count("produce") == produced
    assert b.broker.log == [("tags", 1)]
    assert b.delivery.waiting == 0


def test_an_offset_without_results_is_committed_too(bench: Any) -> None:
    """A superseded upload has no result, and its offset moves all the same."""
    b = bench()
    b.consumer.done(Record(0, 1, 5, b"k", b"v", 7))
    b.turns(3)
    assert b.broker.calls == ["init", "begin", "send", "commit"]
    assert set(b.broker.offsets) == {0}


def test_without_a_membership_nothing_is_sent(bench: Any) -> None:
    """A process that was frozen polls first: its offsets may be somebody else's by now."""
    b = bench()
    b.turns()
    b.consumer.is_member = False
    b.publish(1)
    b.turns(3)
    assert b.broker.calls == ["init"]
    b.consumer.is_member = True
    b.turns()
    assert b.broker.log == [("tags", 1)]


def test_results_of_partitions_that_went_are_dropped(bench: Any) -> None:
    """Lost: they are their next owner's. Revoked: published first, if the broker takes them."""
    b = bench()
    b.turns()
    b.publish(1, partition=0)
    b.publish(2, partition=1)
    b.delivery.leave({0}, lost=True)
    del b.consumer.owned[0]
    b.turns()
    assert b.broker.log == [("tags", 2)]
    b.publish(3, partition=1)
    going = {1}
    b.delivery.leave(going, lost=False)
    assert going == {1}, "the consumer goes on with it: what is not in it any more would stay owned"
    assert b.broker.log[-1] == ("tags", 3)
    assert b.delivery.waiting == 0
    assert b.consumer.left == {1}


def test_partitions_are_left_in_order_without_results_too(bench: Any) -> None:
    """The last commit of an owner says that it was not killed, also behind a commit without an answer."""
    b = bench(commit=[(TIMED_OUT, True)])
    b.publish(1)
    b.turns(2)
    assert b.delivery.finish(5.0)
    assert b.consumer.left == {0, 1}
    assert b.broker.calls.count("commit") == 3


def test_a_result_of_an_old_epoch_is_never_published(bench: Any) -> None:
    """The partition went and came back in between: its upload is read again."""
    b = bench()
    b.turns()
    b.publish(1, epoch=0)
    b.turns()
    assert b.broker.log == []
    assert b.delivery.waiting == 0


def test_a_revocation_with_the_broker_away_is_bounded(bench: Any) -> None:
    """It waits REVOKE_COMMIT and then lets the results go."""
    b = bench(commit=[(TIMED_OUT, False)] * 1000)
    b.turns()
    b.publish(1)
    before = b.now
    b.delivery.leave({0}, lost=False)
    assert b.now - before <= 2.5
    assert b.delivery.waiting == 0


def test_a_refusal_ends_the_worker(bench: Any) -> None:
    """No permission is no use to try again; the text says what Kafka said."""
    b = bench(init=[(REFUSED, False)])
    with pytest.raises(StartError, match="refuses"):
        b.turns()


failures = st.one_of(
    st.just((None, True)),
    st.tuples(st.sampled_from([FATAL, TIMED_OUT]), st.booleans()),
    st.just((ABORTABLE, False)),
)
scripts = st.fixed_dictionaries(
    {
        "init": st.lists(st.tuples(st.sampled_from([FATAL, TIMED_OUT]), st.just(False)), max_size=3),
        "begin": st.lists(st.just((FATAL, False)), max_size=1),
        "produce": st.lists(st.one_of(st.just((None, True)), st.just((ABORTABLE, False))), max_size=6),
        "send": st.lists(failures, max_size=6),
        "commit": st.lists(failures, max_size=6),
        "abort": st.lists(st.tuples(st.sampled_from([FATAL, TIMED_OUT]), st.booleans()), max_size=4),
        "ask": st.lists(st.just((TIMED_OUT, False)), max_size=2),
    }
)


@given(scripts, st.lists(st.integers(0, 3), max_size=12), st.integers(0, 12), st.booleans())
def test_whatever_fails_every_result_is_there_once(
    script: dict[str, list[tuple[Error | None, bool]]], pauses: list[int], lose_at: int, lost: bool
) -> None:
    """Any calls fail, in any way, with or without their effect: at the end each result of a partition that is
    still ours is committed once, one of the partition that was lost at most once, in order."""
    b = Bench(**script)
    try:
        for offset, pause in enumerate(pauses):
            b.publish(offset, partition=offset % 2)
            b.turns(pause)
            if offset == lose_at:
                b.delivery.leave({1}, lost)
                del b.consumer.owned[1]
        b.turns(60)
        assert b.delivery._state is State.READY
        assert b.delivery.waiting == b.delivery.waiting_bytes == 0
        found = [offset for _, offset in b.broker.log]
        assert set(Counter(found).values()) <= {1}
        ours = [o for o in range(len(pauses)) if o % 2 == 0 or lose_at >= len(pauses)]
        assert set(ours) <= set(found)
        assert [o for o in found if o % 2 == 0] == sorted(o for o in found if o % 2 == 0)
    finally:
        b.undo()
