"""worker.kafka.exactly_once: one reaction for each kind of error, and every result exactly once whatever
fails.

The broker here is a stand-in. The same promises are tested on Apache Kafka in tests/integration and
tests/faults.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_kafka import Error, FakeBroker
from tests.support.fake_uploads import FakeUploadsConsumer
from worker.errors import StartError
from worker.kafka.client_config import transaction_config
from worker.kafka.delivery import Result
from worker.kafka.exactly_once import AGAIN_MAX, MAX_BATCH, ExactlyOnce, State
from worker.messages.record import Record
from worker.telemetry.metrics import Metrics

ABORTABLE: Error = {"error": KafkaError.ILLEGAL_GENERATION, "txn_requires_abort": True}
FATAL: Error = {"error": KafkaError._FENCED, "fatal": True}
TIMED_OUT: Error = {"error": KafkaError._TIMED_OUT, "retriable": True}


class Bench:
    """Two partitions, of which everything is committed; what goes wrong is scripted."""

    def __init__(self, **script: list[tuple[Error | None, bool]]) -> None:
        self.broker = FakeBroker({"uploads": 2, "tags": 2}, script)
        self.consumer = FakeUploadsConsumer({0: [], 1: []}, broker=self.broker)
        for partition in range(2):
            self.consumer.assign(partition, [])
        self.consumer.commit()
        self.metrics = Metrics()
        self.now = 0.0
        patch = pytest.MonkeyPatch()
        patch.setattr("worker.kafka.exactly_once.Producer", self.broker.producer)
        patch.setattr("worker.kafka.exactly_once.time.sleep", self.sleep)
        self.undo = patch.undo
        self.delivery = ExactlyOnce(
            transaction_config({"bootstrap.servers": "b:1"}, "id"), "uploads", self.consumer, interval=0.05,  # type: ignore[arg-type]
            metrics=self.metrics, clock=lambda: self.now,
        )  # fmt: skip

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def record(self, offset: int, partition: int = 0, epoch: int = 1) -> Record:
        record = Record(partition, epoch, offset, b"k", b"v", 7)
        self.consumer.take(record)
        return record

    def publish(self, offset: int, partition: int = 0, epoch: int = 1) -> None:
        self.delivery.publish(Result("tags", b"k", b"v", self.record(offset, partition, epoch)))

    def turns(self, count: int = 1) -> None:
        for _ in range(count):
            self.delivery.run_once()
            self.now += AGAIN_MAX

    @property
    def published(self) -> list[int]:
        """Source offsets of the tags that readers see, in order."""
        return [int(dict(record.headers)["source-offset"]) for _, _, record in self.broker.history]

    @property
    def committed(self) -> set[int]:
        return {partition for _, _, partition in self.broker.committed}

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
    assert b.published == [1, 2]
    assert b.committed == {0, 1}
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
    assert len(b.published) == 1
    b.now += 0.05
    b.delivery.run_once()
    assert len(b.published) == 2


@pytest.mark.parametrize("call", ["produce", "send", "commit"])
def test_an_abortable_error_publishes_the_same_again(bench: Any, call: str) -> None:
    """The membership changed, say: abort, then the same results in another transaction."""
    b = bench(**{call: [(ABORTABLE, False)]})
    b.publish(1)
    b.turns(5)
    assert "abort" in b.broker.calls
    assert b.published == [1]
    assert (b.commits("aborted"), b.commits("committed")) == (1, 1)


def test_a_commit_without_an_answer_is_asked_for_again(bench: Any) -> None:
    """Not aborted, not published again: the same call, until the broker says what became of it."""
    b = bench(commit=[(TIMED_OUT, False), (TIMED_OUT, True)])
    b.publish(1)
    b.turns(5)
    assert b.broker.calls.count("commit") == 3
    assert "abort" not in b.broker.calls
    assert b.published == [1]


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
    assert b.published == [1]
    assert b.delivery.waiting == 0


def test_an_offset_without_results_is_committed_too(bench: Any) -> None:
    """A superseded upload has no result, and its offset moves all the same."""
    b = bench()
    b.consumer.done(b.record(5))
    b.turns(3)
    assert b.broker.calls == ["init", "begin", "send", "commit"]
    assert b.committed == {0}


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
    assert b.published == [1]


def test_results_of_partitions_that_went_are_dropped(bench: Any) -> None:
    """Lost: they are their next owner's. Revoked: published first, if the broker takes them."""
    b = bench()
    b.turns()
    b.publish(1, partition=0)
    b.publish(2, partition=1)
    b.delivery.leave({0}, lost=True)
    del b.consumer.owned[0]
    b.turns()
    assert b.published == [2]
    b.publish(3, partition=1)
    going = {1}
    b.delivery.leave(going, lost=False)
    assert going == {1}, "the consumer goes on with it: what is not in it any more would stay owned"
    assert b.published[-1] == 3
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
    assert b.published == []
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


def test_a_transaction_has_a_bound(bench: Any) -> None:
    """However much was gathered while the broker was away; the results of one upload stay together."""
    b = bench()
    b.turns()
    total = 2 * MAX_BATCH + 10
    records = [b.record(offset) for offset in range(total)]
    for record in records:
        b.delivery.publish(*(Result("tags", b"k", value, record) for value in (b"v", b"w", b"x")))
    seen = 0
    while b.delivery.waiting:
        b.turns()
        published = b.published
        assert 0 < len(published) - seen <= MAX_BATCH + 2
        assert len(published) % 3 == 0
        seen = len(published)
    assert b.published == [offset for offset in range(total) for _ in range(3)]


def test_aborts_wait_longer_and_longer_until_a_commit(bench: Any) -> None:
    """An abort that succeeds is no reason to hurry: only a commit is."""
    b = bench(commit=[(ABORTABLE, False)] * 8)
    b.turns()
    b.publish(1)
    times = []
    while not b.published:
        before = b.broker.calls.count("commit")
        b.delivery.run_once()
        if b.broker.calls.count("commit") > before:
            times.append(b.now)
        b.now += 0.01
    gaps = [round(b - a, 3) for a, b in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= AGAIN_MAX


@pytest.mark.parametrize("fatal", [True, False])
@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "transactional ids"),
        (KafkaError.INVALID_TRANSACTION_TIMEOUT, "transaction.max.timeout.ms"),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, "IdempotentWrite"),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, "Read on the group"),
    ],
)
def test_a_refusal_ends_the_worker(bench: Any, code: int, remedy: str, fatal: bool) -> None:
    """No producer would be treated better; the text says what Kafka said, and what to do."""
    b = bench(init=[({"error": code, "fatal": fatal}, False)])
    with pytest.raises(StartError, match=re.escape(remedy)):
        b.turns()


def test_a_topic_that_must_not_be_written_ends_the_worker(bench: Any) -> None:
    """The producer reports it with the record, and the transaction only that something failed."""
    b = bench()
    b.broker.denied = {"tags"}
    b.publish(1)
    with pytest.raises(StartError, match="grant Write on the topics"):
        b.turns(5)
    assert b.published == []


@pytest.mark.parametrize("step", ["init", "begin", "commit"])
def test_only_fencing_and_time_outs_deserve_a_new_producer(bench: Any, step: str) -> None:
    """Whatever else is fatal would be so again, for ever."""
    b = bench(**{step: [({"error": KafkaError.UNSUPPORTED_VERSION, "fatal": True}, False)]})
    b.publish(1)
    with pytest.raises(KafkaException):
        b.turns(3)
    assert b.broker.calls.count("init") == 1


lasting = [(error, done) for error in (FATAL, TIMED_OUT) for done in (False, True)]
failures = st.sampled_from([(None, True)] * 4 + lasting + [(ABORTABLE, False)] * 4)
scripts = st.fixed_dictionaries(
    {
        "init": st.lists(st.sampled_from([(FATAL, False), (TIMED_OUT, False)]), max_size=3),
        "begin": st.lists(st.just((FATAL, False)), max_size=1),
        "produce": st.lists(st.sampled_from([(None, True), (ABORTABLE, False)]), max_size=6),
        "send": st.lists(failures, max_size=6),
        "commit": st.lists(failures, max_size=6),
        "abort": st.lists(st.sampled_from(lasting), max_size=4),
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
        found = b.published
        assert set(Counter(found).values()) <= {1}
        ours = [o for o in range(len(pauses)) if o % 2 == 0 or lose_at >= len(pauses)]
        assert set(ours) <= set(found)
        assert [o for o in found if o % 2 == 0] == sorted(o for o in found if o % 2 == 0)
    finally:
        b.undo()
