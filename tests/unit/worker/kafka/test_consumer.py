"""worker.kafka.consumer on a stand-in for the Kafka client: whose metadata is sent, and partitions that fall
silent. What a real client and broker do is tested in tests/integration and tests/faults."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable

import pytest
from confluent_kafka import KafkaError, TopicPartition

from tests.support.fake_clients import FakeConsumer
from tests.support.fake_kafka import FakeBroker, Transaction
from worker.errors import StartError
from worker.kafka.assignment import BegunPartition, is_member
from worker.kafka.consumer import UploadsConsumer
from worker.kafka.offsets import NO_TOPICS, CommitTopics, encode_done, topics_of
from worker.kafka.pending_retries import PendingRetries
from worker.kafka.positioning import ROUND
from worker.kafka.retry_changelog import Pending
from worker.kafka.topic_ids import EVERY, TopicIds
from worker.messages.record import Record
from worker.telemetry.metrics import Metrics


class FakeRetries:
    """Nothing waits: a partition is restored at once."""

    topic = "retry"

    def __init__(self) -> None:
        self.begun: list[tuple[int, int, PendingRetries[Pending]]] = []
        self.times = 0  # that a restoration was begun

    def begin(self, partition: int, epoch: int) -> None:
        self.times += 1
        self.begun.append((partition, epoch, PendingRetries()))

    def drop(self, partition: int) -> None:
        pass

    def is_reading(self, partition: int) -> bool:
        return False

    def trouble(self, partition: int) -> str:
        return ""

    def close(self) -> None:
        pass

    def poll(self) -> list[tuple[int, int, PendingRetries[Pending]]]:
        begun, self.begun = self.begun, []
        return begun


class Bench:
    """A consumer whose group has committed offset 7 of the only partition; the log ends there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broker = FakeBroker({"uploads": 1, "retry": 1})
        monkeypatch.setattr("worker.kafka.consumer.Consumer", self.broker.consumer)
        self.records(7)
        self.broker.committed["group", "uploads", 0] = 7, ""
        self.now = 100.0
        self.begun: list[BegunPartition] = []
        self.left: list[tuple[set[int], bool]] = []
        self.retries = FakeRetries()
        self.metrics = Metrics()
        self.ids = TopicIds({}, ["uploads", "retry"], clock=lambda: self.now, admin=self.broker.admin())
        self.restart("earliest")
        self.client.moves.clear()

    def restart(self, start: str) -> list[Record]:
        """A new process; what it reads at first."""
        self.consumer = UploadsConsumer(
            {"group.id": "group"}, "uploads", start=start, clock=lambda: self.now, wall_ms=lambda: 0,
            metrics=self.metrics, retries=self.retries, ids=self.ids, on_begun=self.begun.append,  # type: ignore[arg-type]
            on_leaving=lambda partitions, lost: self.left.append((partitions, lost)),
        )  # fmt: skip
        self.client: FakeConsumer = self.consumer._consumer  # type: ignore[assignment]
        return self.begins()

    def begins(self) -> list[Record]:
        """A few polls: questions are asked, answered, and acted on; what is read by the way."""
        return [record for _ in range(8) for record in self.consumer.poll(10, 0.0)]

    def take_over(self) -> list[Record]:
        """The partition goes to somebody who leaves it as it is, and comes back; what is read then."""
        self.client.take_away({0}, "lost")
        return self.begins()

    def commits(self, offset: int, done: Iterable[int] = (), topics: CommitTopics = NO_TOPICS) -> None:
        self.broker.committed["group", "uploads", 0] = offset, encode_done(offset, done, "", 1, topics)

    @property
    def topics(self) -> CommitTopics:
        """Those that there are now."""
        return CommitTopics(self.broker.ids["uploads"], self.broker.ids["retry"])

    @property
    def lost(self) -> float | None:
        return self.metrics.value("imgclust_consumer_records_lost_total")

    def records(self, count: int) -> None:
        for _ in range(count):
            self.broker.send("uploads", b"{}")

    def passes(self, seconds: float) -> None:
        """Time in which the loop polls and reports once a second."""
        for _ in range(int(seconds)):
            self.now += 1.0
            self.consumer.poll(10, 0.0)
            self.consumer.report()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


MANY = 60


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A consumer that is about to get 60 partitions."""
    bench = Bench(monkeypatch)
    bench.consumer.close()
    bench.broker.logs |= {(topic, p): [] for topic in ("uploads", "retry") for p in range(MANY)}
    bench.broker.committed = {}
    bench.consumer = UploadsConsumer(
        {"group.id": "group"}, "uploads", start="earliest", clock=lambda: bench.now, wall_ms=lambda: 0,
        metrics=Metrics(), retries=FakeRetries(), ids=bench.ids, on_begun=bench.begun.append,  # type: ignore[arg-type]
        on_leaving=lambda partitions, lost: None,
    )  # fmt: skip
    bench.begun.clear()
    bench.broker.calls.clear()
    return bench


def test_one_question_for_all_committed_offsets(many: Bench) -> None:
    """Sixty partitions that were just assigned are asked for together."""
    many.begins()
    assert len(many.begun) == MANY
    assert many.broker.calls.count("committed") == 1


@pytest.mark.parametrize("question", ["committed", "watermarks"])
def test_a_frozen_broker_costs_a_round_one_question(many: Bench, question: str) -> None:
    """However many partitions wait: no round asks again after a question without answer, and when the broker
    is back all of them begin."""
    timed_out = ({"error": KafkaError._TIMED_OUT, "retriable": True}, False)
    many.broker.script[question] = deque([timed_out] * 40)
    for _ in range(40):
        before = many.broker.calls.count(question)
        unanswered = len(many.broker.script[question])
        many.consumer.poll(10, 0.0)
        asked = many.broker.calls.count(question) - before
        assert asked <= 1 or not unanswered
        many.now += 0.05
    many.broker.script[question].clear()
    for _ in range(200):
        many.consumer.poll(10, 0.0)
        many.now += 0.05
    assert len(many.begun) == MANY


def test_a_slow_broker_costs_a_round_a_second_and_a_question(many: Bench) -> None:
    """Each of sixty partitions has to ask where its log ends, and each answer takes 0.4 s: polls go on in
    between."""
    client: FakeConsumer = many.consumer._consumer  # type: ignore[assignment]
    ask = client.get_watermark_offsets

    def slow(partition: TopicPartition, timeout: float = 0, cached: bool = False) -> tuple[int, int]:
        many.now += 0.0 if cached else 0.4
        return ask(partition, timeout, cached)

    client.get_watermark_offsets = slow  # type: ignore[method-assign]
    longest = 0.0
    for _ in range(40):
        before = many.now
        many.consumer.poll(10, 0.0)
        longest = max(longest, many.now - before)
        many.now += 0.05
    assert len(many.begun) == MANY
    assert longest < ROUND + 0.4


def test_a_commit_is_not_waited_for(bench: Bench) -> None:
    """Also when partitions are left, or a broker that is away would hold up the loop; its answer comes with a
    poll."""
    bench.records(1)
    (record,) = bench.begins()
    bench.consumer.done(record)
    bench.client.asynchronous.clear()
    bench.consumer.commit(leaving={0})
    assert bench.client.asynchronous == [True]
    assert bench.consumer.committing
    bench.consumer.poll(1, 0.0)
    assert not bench.consumer.committing
    assert bench.broker.committed["group", "uploads", 0][0] == 8


def test_a_partition_whose_answer_is_held_back_holds_up_no_other(many: Bench) -> None:
    """An open transaction of a dead owner in one of sixty: the others begin at once."""
    many.broker.open["dead owner"] = Transaction(offsets={("group", "uploads", 7): (9, "")})
    for _ in range(30):
        many.consumer.poll(10, 0.0)
        many.now += 0.02
    assert {begun.partition for begun in many.begun} == set(range(MANY)) - {7}


def test_a_partition_begins_where_the_last_owner_ended(bench: Bench) -> None:
    """After its retries are there: the committed offset, and a new epoch."""
    (begun,) = bench.begun
    assert (begun.partition, begun.position, len(begun.pending)) == (0, 7, 0)
    assert bench.consumer.owns(0, begun.epoch)


def test_retries_are_read_when_the_last_owner_has_no_open_transaction(bench: Bench) -> None:
    """A transaction of the last owner may still be committed, with the end of a retry in it: while it is open
    the committed offset is not told, and nothing is restored; the retries are read after that, once."""
    held_back = {("group", "uploads", 0): (9, "")}
    bench.broker.open["last owner"] = Transaction(offsets=held_back)
    bench.client.take_away({0})
    bench.passes(20)
    assert (bench.retries.times, len(bench.begun)) == (1, 1)  # those of the first assignment
    bench.broker.finish("last owner", commit=False)
    bench.passes(3)
    assert (bench.retries.times, len(bench.begun)) == (2, 2)


def test_a_silent_partition_with_records_is_set_going_again(bench: Bench) -> None:
    """First by a seek, then by assigning it anew, and less and less often where nothing comes of it."""
    bench.client.silent = True
    bench.records(2)
    bench.passes(4)
    assert bench.client.moves == []
    bench.passes(2)
    assert bench.client.moves == [("seek", 7)]
    bench.passes(11)
    assert bench.client.moves == [("seek", 7), ("look", 0), ("assign", 7)]
    bench.passes(1800)
    assert len(bench.client.moves) < 25


def test_a_partition_without_records_is_left_alone(bench: Bench) -> None:
    """Its silence is as it should be."""
    bench.passes(60)
    assert bench.client.moves == []


def test_after_a_sleep_the_group_comes_first(bench: Bench) -> None:
    """What came while this process slept may be a successor's to read: assigned anew, the partition would not
    be reported as lost. Silence counts from the next look at the group on."""
    bench.passes(6)  # silent once already: the next remedy would be to assign it anew
    bench.client.silent = True
    bench.records(2)
    bench.now += 20.0
    bench.consumer.report()
    assert bench.client.moves == []
    bench.passes(5)
    assert bench.client.moves == []
    bench.passes(2)
    assert bench.client.moves == [("seek", 7)]


def test_a_paused_partition_is_silent_by_itself(bench: Bench) -> None:
    """The time in which it was paused does not count."""
    bench.client.silent = True
    bench.records(2)
    bench.consumer.pause()
    bench.passes(60)
    bench.consumer.resume()
    bench.passes(4)
    assert bench.client.moves == []


def test_offsets_are_never_sent_without_a_member(bench: Bench) -> None:
    """Brokers take offsets without a membership, and fence nobody then: not before, not after one."""
    assert bench.consumer.snapshot("m", {0}, set()) is not None
    for generation, member in ((-1, b""), (3, b""), (-1, b"member-1")):
        bench.client.forced_metadata = (
            b"CGMDv2:" + generation.to_bytes(4, "little", signed=True) + b"group\0" + member + b"\0\0"
        )
        assert bench.consumer.snapshot("m", {0}, set()) is None
    with pytest.raises(ValueError, match="does not know"):
        is_member(b"CGMDv9:....")


def test_a_process_that_slept_looks_at_the_group_first(bench: Bench) -> None:
    """Three seconds after the last poll the metadata may be that of a new membership."""
    bench.now += 3.1
    assert bench.consumer.snapshot("m", {0}, set()) is None
    bench.consumer.poll(10, 0.0)
    snapshot = bench.consumer.snapshot("m", {0}, set())
    assert snapshot is not None
    assert [(p.partition, p.offset) for p in snapshot.offsets] == [(0, 7)]


def test_while_the_client_closes_nothing_is_asked_of_it(bench: Bench) -> None:
    """All was committed before: partitions that go are dropped without a commit, one that comes is not begun.
    A worker that asked its client something at that moment did not end."""
    bench.client.while_closing = [1]
    bench.consumer.close()
    assert bench.left == [({0}, True)]
    assert bench.retries.times == 1


# ── topics that were deleted and made anew, and logs that lost an end ────────────────────────────────────


def offsets(records: list[Record]) -> list[int]:
    return [record.offset for record in records]


def test_a_commit_names_the_topics_that_it_is_about(bench: Bench) -> None:
    """Both ids are in its metadata: an offset of a topic says nothing of another one of the same name."""
    snapshot = bench.consumer.snapshot("m", {0}, set())
    assert snapshot is not None
    ((_, _, (_, metadata)),) = snapshot.states
    assert topics_of(metadata) == bench.topics


@pytest.mark.parametrize("keep_offsets", [True, False], ids=["committed since", "offsets are gone"])
def test_a_topic_that_is_made_anew_while_it_is_read_is_read_from_its_start(
    bench: Bench, keep_offsets: bool
) -> None:
    """Without a rebalance too: within seconds it is seen, what was unread in the old one is counted, and all
    of the new one is read, though it has grown past the old position."""
    bench.client.silent = True
    bench.records(5)
    bench.passes(3)  # five are known to be there
    bench.commits(7, topics=bench.topics)
    bench.broker.make_anew("uploads", keep_offsets=keep_offsets)
    bench.passes(1)  # it is shorter
    bench.records(20)
    bench.client.silent = False
    bench.passes(4)
    assert bench.left == [({0}, False)]
    assert [begun.position for begun in bench.begun] == [7, 0]
    assert bench.consumer.position(0) == 0
    assert bench.lost == 5
    snapshot = bench.consumer.snapshot("m", {0}, set())
    assert snapshot is not None
    assert topics_of(snapshot.states[0][2][1]) == bench.topics


def test_a_topic_that_was_made_anew_while_nobody_looked_is_read_from_its_start(bench: Bench) -> None:
    """The commit is of a topic that is gone: its offset and its bits say nothing of the new one, however long
    that is. What it says was begun and not done is lost."""
    bench.commits(7, done=[9, 11], topics=bench.topics)
    bench.broker.make_anew("uploads", keep_offsets=True)
    bench.records(20)
    assert offsets(bench.take_over()) == list(range(20))
    assert bench.lost == 3  # 7, 8 and 10


@pytest.mark.parametrize("noted", [True, False])
def test_from_the_end_a_topic_that_was_made_anew_is_read_from_its_start(bench: Bench, noted: bool) -> None:
    """With WORKER_START=latest, while no worker ran: Kafka deletes the group's offsets with the topic, and
    leaves the note of which topic it read. A group without one begins at the end."""
    bench.consumer.close()
    bench.restart("latest")
    bench.passes(3)
    bench.consumer.close()
    if not noted:
        del bench.broker.committed["group", "retry", 0]
    bench.broker.make_anew("uploads")
    assert ("group", "uploads", 0) not in bench.broker.committed
    bench.records(5)
    assert offsets(bench.restart("latest")) == ([0, 1, 2, 3, 4] if noted else [])
    bench.records(1)
    assert offsets(bench.begins()) == [5]


def test_from_the_end_the_same_topic_is_read_from_its_end(bench: Bench) -> None:
    """Without a committed offset, whatever was noted; a note that was not taken is written again."""
    bench.consumer.close()
    bench.restart("latest")
    bench.broker.script["commit-offsets"] = deque([({"error": KafkaError._TIMED_OUT}, False)])
    bench.passes(3)
    assert bench.broker.committed["group", "retry", 0] == (0, bench.topics.uploads)
    bench.consumer.close()
    del bench.broker.committed["group", "uploads", 0]
    bench.records(5)
    assert offsets(bench.restart("latest")) == []


def test_an_id_that_is_known_late_is_that_of_what_is_read(bench: Bench) -> None:
    """Brokers that are slow hold nobody up; what is made anew after they have answered is recognised."""
    ids, bench.broker.ids = bench.broker.ids, dict.fromkeys(bench.broker.ids, "")
    bench.passes(EVERY + 2)
    bench.ids.refresh()
    bench.take_over()
    bench.broker.ids = ids
    bench.passes(EVERY + 2)
    snapshot = bench.consumer.snapshot("m", {0}, set())
    assert snapshot is not None
    assert topics_of(snapshot.states[0][2][1]) == bench.topics
    bench.broker.make_anew("uploads")
    bench.records(20)
    bench.passes(EVERY + 4)
    assert bench.begun[-1].position == 0


def test_a_commit_without_ids_is_believed(bench: Bench) -> None:
    """As older versions wrote it, and where brokers tell none: after an update nothing is read again."""
    bench.records(20)
    bench.commits(9, done=[12])
    assert offsets(bench.take_over()) == [9, 10, 11, *range(13, 27)]
    assert bench.lost == 0


def test_retries_of_a_topic_that_is_gone_are_counted(bench: Bench) -> None:
    """For the uploads topic they are done: nothing else would ever say that they are missing."""
    bench.commits(7, topics=dataclasses.replace(bench.topics, pending=4))
    bench.broker.make_anew("retry")
    bench.take_over()
    assert bench.lost == 4
    assert bench.consumer.position(0) == 7


def test_retries_that_are_gone_while_it_runs_are_counted(bench: Bench) -> None:
    """Found by the regular look, as for the uploads."""
    bench.begun[0].pending.add("a", Pending(Record(0, 1, 3, b"a", b"{}", 7), 1, 9), 1e9, 0)
    snapshot = bench.consumer.snapshot("m", {0}, set())
    assert snapshot is not None
    offset, metadata = snapshot.states[0][2]
    bench.broker.committed["group", "uploads", 0] = offset, metadata
    bench.broker.make_anew("retry")
    bench.passes(EVERY + 4)
    assert bench.lost == 1
    assert len(bench.begun) == 2


def test_a_topic_that_is_away_is_waited_for(bench: Bench) -> None:
    """Deleted and not made anew yet: nothing is read, and why is told; the new one begins at once."""
    topics = bench.topics
    del bench.broker.ids["uploads"]
    bench.commits(7, topics=topics)
    assert bench.take_over() == []
    bench.passes(3)
    assert "there is no topic 'uploads'" in bench.consumer.waiting[0]
    bench.broker.make_anew("uploads", keep_offsets=True)
    bench.passes(3)
    assert (bench.consumer.waiting, bench.consumer.position(0)) == ({}, 0)


def test_retention_within_the_done_offsets_shifts_them(bench: Bench) -> None:
    """The log begins behind the committed offset: what is done beyond that is not done again, and only what
    was not done before it is lost."""
    bench.records(20)
    bench.commits(7, done=[8, 9, 12, 14, *range(16, 20)], topics=bench.topics)
    bench.broker.cut("uploads", 0, 12)
    assert offsets(bench.take_over()) == [13, 15, *range(20, 27)]
    assert bench.lost == 3  # 7, 10 and 11


def test_a_log_that_lost_its_tail_goes_on_at_its_end(bench: Bench) -> None:
    """The same topic, and it ends before the committed offset: nothing is done again, and it is counted."""
    bench.commits(12, topics=bench.topics)
    bench.take_over()
    assert bench.consumer.position(0) == 7
    assert bench.lost == 5
    bench.records(2)
    assert offsets(bench.begins()) == [7, 8]


def test_a_shorter_log_of_nobody_knows_which_topic_is_read_from_its_start(bench: Bench) -> None:
    """Without an id in the commit it may as well be a new one: to do it again is better than never."""
    bench.commits(12)
    assert offsets(bench.take_over()) == list(range(7))


def test_a_partition_that_is_assigned_anew_may_be_lost_already(bench: Bench) -> None:
    """Assigned anew it would not be reported as lost: until the client's queue has been empty nothing is
    committed, neither by a transaction nor for a revocation."""
    bench.records(20)
    bench.commits(7, topics=bench.topics)
    bench.broker.cut("uploads", 0, 12)
    bench.client.take_away({0}, "lost")
    bench.client.moves.clear()
    while ("assign", 12) not in bench.client.moves:
        bench.consumer.poll(10, 0.0)
    assert bench.consumer.snapshot("m", {0}, set()) is None
    bench.left.clear()
    bench.client.take_away({0}, "revoke")
    assert bench.left == [({0}, True)]
    bench.begins()
    assert bench.consumer.snapshot("m", {0}, set()) is not None
    bench.client.take_away({0}, "revoke")
    assert bench.left[-1] == ({0}, False)


def test_an_assigned_partition_is_not_read_before_it_is_positioned(bench: Bench) -> None:
    """It is paused before it is assigned at 0, which retention may have taken: no error, and no second
    assignment."""
    bench.records(20)
    bench.commits(15, topics=bench.topics)
    bench.broker.cut("uploads", 0, 12)
    bench.client.moves.clear()
    assert offsets(bench.take_over()) == list(range(15, 27))
    assert bench.client.moves == [("assign", 0), ("seek", 15)]


# ── partitions that cannot begin ─────────────────────────────────────────────────────────────────────────


def test_a_partition_that_cannot_begin_is_shown(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Not ready at once, a warning and the gauge after ten seconds, the warning once; over when it begins."""
    bench.broker.open["last owner"] = Transaction(offsets={("group", "uploads", 0): (7, "")})
    bench.client.take_away({0})
    bench.passes(3)
    assert "no committed offset" in bench.consumer.waiting[0]
    assert bench.metrics.value("imgclust_consumer_waiting_partitions") == 0
    bench.records(4)
    bench.passes(20)
    assert bench.metrics.value("imgclust_consumer_waiting_partitions") == 1
    assert bench.metrics.value("imgclust_consumer_lag_records", partition="0") == 11
    assert sum("cannot begin" in record.getMessage() for record in caplog.records) == 1
    bench.broker.finish("last owner", commit=True)
    bench.passes(3)
    assert bench.consumer.waiting == {}
    assert bench.metrics.value("imgclust_consumer_waiting_partitions") == 0


@pytest.mark.parametrize(
    "code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED]
)
def test_a_missing_right_ends_the_worker(bench: Bench, code: int) -> None:
    """It says what to grant, and no patience helps."""
    bench.broker.script["committed"] = deque([({"error": code}, False)])
    with pytest.raises(StartError, match="grant Read"):
        bench.take_over()
