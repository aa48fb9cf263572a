"""Members of a run on the stand-in for Kafka: killed, frozen, fenced, and given each other's partitions."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_kafka import FakeBroker
from worker.errors import StartError, WorkerError
from worker.kafka import claim, group_share, scanner
from worker.kafka.claim import Claim, ClaimLost
from worker.kafka.group_share import GroupShare
from worker.kafka.scanner import Entry, Scanner
from worker.retagging import member as members
from worker.retagging.joining import join
from worker.retagging.member import Member
from worker.retagging.runs import Run
from worker.retagging.tagging import Answered, Counts

SOURCE, TO, GROUP = "embeddings", "again", "g.retag.again"
PARTITIONS = 3
EACH = 11  # records of a partition


class Upper:
    """Tags that are the record in capitals."""

    content_type = b"text/plain"

    def answered(self, batches: Generator[list[Entry]]) -> Generator[list[Answered]]:
        for batch in batches:
            yield [Answered(entry) for entry in batch]

    def written(self, answered: Sequence[Answered], counts: Counts) -> Iterator[tuple[Entry, bytes | None]]:
        for one in answered:
            value = one.entry.value
            if value is None:
                counts.deletions += 1
            else:
                counts.tags += 1
            yield one.entry, None if value is None else value.upper()


def at_once(batches: Generator[Any]) -> Generator[Any]:
    return batches


class Cluster:
    """A broker with embeddings, and processes that tag them."""

    def __init__(self, script: dict[str, Any] | None = None) -> None:
        self.broker = FakeBroker({SOURCE: PARTITIONS, TO: PARTITIONS}, script)
        self.ticks = itertools.count()
        for partition in range(PARTITIONS):
            for n in range(EACH):
                self.broker.send(SOURCE, None if n == 5 else b"r%d" % n, partition, b"k%d" % (n % 4))

    def clients(self) -> tuple[Scanner, GroupShare]:
        return Scanner({}, GROUP), GroupShare({}, "retag", GROUP, "classic", SOURCE)

    def join(self, reader: Scanner, share: GroupShare, model: str = "m") -> Run:
        return join(
            lambda: share.committed(range(PARTITIONS)),
            lambda: {p: reader.bounds(SOURCE, p) for p in range(PARTITIONS)},
            lambda: Claim({}, "retag", GROUP, reader.membership(), SOURCE),
            partitions=range(PARTITIONS), model=model, to=TO, target=self.broker.ids[TO],
        )  # fmt: skip

    def member(self, model: str = "m") -> Member:
        reader, share = self.clients()
        run = self.join(reader, share, model)
        share.join()
        return Member(
            run, share, lambda p: Claim({}, "retag", f"{GROUP}.{p}", reader.membership(), SOURCE),
            source=SOURCE, to=TO, reader=reader, retagger=Upper(), watching=lambda _: None,
            clock=lambda: 0.5 * next(self.ticks), in_thread=at_once,
        )  # fmt: skip

    def finish(self, *members: Member, rounds: int = 300) -> None:
        going = list(members)
        for _ in range(rounds):
            for member in list(going):
                if member.finished:
                    member.stop()
                    member._share.__exit__()
                    going.remove(member)
                else:
                    member.run_once()
            if not going:
                return
        raise AssertionError(f"not finished: {members[0].run}")

    def expel(self, member: Member) -> None:
        """The group believes that it is dead."""
        consumer = member._share._consumer
        self.broker.leave(GROUP, consumer.member)

    def tagged(self) -> list[tuple[int, int, bytes | None]]:
        """(partition, offset in the source, value), in the order of their partitions."""
        return [
            (partition, int(dict(record.headers)["source-offset"]), record.value)
            for partition in range(PARTITIONS)
            for record in self.broker.logs[TO, partition]
            if record.state == "committed"
        ]

    def right(self, until: int = EACH) -> list[tuple[int, int, bytes | None]]:
        return [
            (partition, n, None if n == 5 else b"R%d" % n)
            for partition in range(PARTITIONS)
            for n in range(until)
        ]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "BATCH", 2)
    monkeypatch.setattr(members, "COMMIT_BATCHES", 2)


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster whose clients are what the code makes."""
    with pytest.MonkeyPatch.context() as patch:

        def made(script: dict[str, Any] | None = None) -> Cluster:
            cluster = Cluster(script)
            patch.setattr(scanner, "Consumer", cluster.broker.consumer)
            patch.setattr(group_share, "Consumer", cluster.broker.consumer)
            patch.setattr(claim, "Producer", cluster.broker.producer)
            return cluster

        yield made


def test_one_process_tags_all(connect: Any) -> None:
    """In the order of each partition, deletions too; what it did is counted in the run."""
    cluster = connect()
    only = cluster.member()
    cluster.finish(only)
    assert cluster.tagged() == cluster.right()
    run = only.run
    assert (run.tags, run.deletions, run.done, run.left) == (10 * 3, 3, 33, 0)


def test_between_two_partitions_nothing_is_waited_for(connect: Any) -> None:
    """Only who has nothing to tag waits for the group: half a second for each partition is a lot."""
    cluster = connect()
    only = cluster.member()
    polled, waits = only._share.poll, []

    def poll(timeout: float) -> None:
        waits.append(timeout)
        if len(waits) > 2:
            polled(timeout)

    only._share.poll = poll  # type: ignore[method-assign]
    cluster.finish(only)
    assert waits[:3] == [0, members.IDLE, members.IDLE]
    assert set(waits[3:]) == {0}


def test_a_claim_is_made_over_a_connection(connect: Any) -> None:
    """Without one, librdkafka looks for the coordinator half a second later: for each partition."""
    cluster = connect()
    cluster.finish(cluster.member())
    before = [cluster.broker.calls[i - 1] for i, name in enumerate(cluster.broker.calls) if name == "init"]
    assert before == ["metadata"] * (1 + PARTITIONS)


def test_a_run_ends_where_it_was_to_end_when_it_began(connect: Any) -> None:
    """For whoever joins later, too. The next run tags what has come since, and nothing else."""
    cluster = connect()
    first = cluster.member()
    first.run_once()
    cluster.broker.send(SOURCE, b"late", 1, b"k")
    second = cluster.member()
    assert second.run.number == first.run.number
    cluster.finish(first, second)
    assert cluster.tagged() == cluster.right()
    again = cluster.member()
    assert (again.run.number, again.run.total) == (first.run.number + 1, 1)
    cluster.finish(again)
    assert sorted(cluster.tagged()) == sorted([*cluster.right(), (1, EACH, b"LATE")])
    assert again.run.tags == 1


@given(
    moves=st.lists(
        st.sampled_from([(move, n) for move in ["step"] * 8 + ["kill", "expel", "start"] for n in range(4)]),
        max_size=60,
    )
)
def test_each_record_is_tagged_once_whoever_dies(moves: list[tuple[str, int]]) -> None:
    """Processes come, are killed in the middle of a transaction, or are believed dead and go on."""
    with pytest.MonkeyPatch.context() as patch:
        cluster = Cluster()
        patch.setattr(scanner, "Consumer", cluster.broker.consumer)
        patch.setattr(group_share, "Consumer", cluster.broker.consumer)
        patch.setattr(claim, "Producer", cluster.broker.producer)
        patch.setattr(members, "BATCH", 2)
        patch.setattr(members, "COMMIT_BATCHES", 2)
        alive = [cluster.member()]
        for move, n in moves:
            if move == "start" and len(alive) < 4:
                alive.append(cluster.member())
            elif alive:
                one = alive[n % len(alive)]
                if move == "step" and not one.finished:
                    one.run_once()
                elif move == "kill":
                    alive.remove(one)
                    cluster.expel(one)
                elif move == "expel":
                    cluster.expel(one)
        cluster.finish(*alive, cluster.member())
        assert cluster.tagged() == cluster.right()


def test_a_frozen_process_that_wakes_up_publishes_nothing(connect: Any) -> None:
    """Its transaction is void, though its records were sent: somebody else has tagged them meanwhile."""
    cluster = connect()
    frozen = cluster.member()
    while frozen._job is None or frozen._job._open != 1:
        frozen.run_once()
    cluster.expel(frozen)
    cluster.finish(cluster.member())
    assert cluster.tagged() == cluster.right()
    with pytest.raises(ClaimLost):
        frozen._job.commit()
    cluster.finish(frozen)
    assert cluster.tagged() == cluster.right()


def test_what_is_left_of_a_partition_is_asked_when_nobody_else_can_publish_to_it(connect: Any) -> None:
    """A process that is frozen before it claims finds all done; it does not begin where it was then."""
    cluster = connect()
    slow, other = cluster.member(), cluster.member()
    claimed = slow._claim

    def claim_late(partition: int) -> Claim:
        cluster.expel(slow)
        cluster.finish(other)
        return claimed(partition)

    slow._claim = claim_late
    cluster.finish(slow)
    assert cluster.tagged() == cluster.right()


def error(code: int, **flags: bool) -> dict[str, Any]:
    return {"error": code, **flags}


@pytest.mark.parametrize(
    ("call", "failure", "has_effect"),
    [
        ("commit", error(KafkaError._TIMED_OUT), True),
        ("commit", error(KafkaError._TIMED_OUT), False),
        ("commit", error(KafkaError._TIMED_OUT, retriable=True), False),
        ("send", error(KafkaError.COORDINATOR_LOAD_IN_PROGRESS, txn_requires_abort=True), False),
        ("produce", error(KafkaError._STATE), False),
        ("init", error(KafkaError._TIMED_OUT), False),
    ],
)
def test_a_failed_transaction_is_settled_by_the_next_claim(
    connect: Any, call: str, failure: dict[str, Any], has_effect: bool
) -> None:
    """Whether it was committed or not, each record is tagged once."""
    skipped = [(None, True)] * 3
    cluster = connect({call: [*skipped, (failure, has_effect)]})
    cluster.finish(cluster.member())
    assert cluster.tagged() == cluster.right()


def test_who_can_commit_nothing_gives_up(connect: Any) -> None:
    """After some tries, with the reason."""
    failure = error(KafkaError._INCONSISTENT, txn_requires_abort=True)
    cluster = connect({"send": [(None, True), *[(failure, False)] * 50]})
    with pytest.raises(WorkerError, match="no transaction could be committed in 10 tries"):
        cluster.finish(cluster.member())


def test_one_model_at_a_time(connect: Any) -> None:
    """Another model has to wait until a run is finished; then it tags all from the start, and so does the
    first one after it: the last tag of an id is of the last run."""
    cluster = connect()
    first = cluster.member()
    with pytest.raises(StartError, match="33 of 33 records are left"):
        cluster.member("other")
    cluster.finish(first)
    for model in ("other", "m"):
        cluster.finish(cluster.member(model))
    assert len(cluster.tagged()) == 3 * len(cluster.right())


def test_a_topic_that_was_made_anew_is_filled_from_the_start(connect: Any) -> None:
    """Its tags are gone, whatever the group remembers. A member of the run before may publish until its
    partition is claimed, and ends."""
    cluster = connect()
    old = cluster.member()
    while not old.run.done:
        old.run_once()
    cluster.broker.make_anew(TO)
    new = cluster.member()
    assert (new.run.number, new.run.left) == (old.run.number + 1, 33)
    cluster.finish(new, old)
    assert old.replaced
    for partition in range(PARTITIONS):
        tagged = [place for place in cluster.tagged() if place[0] == partition]
        assert tagged[-EACH:] == [place for place in cluster.right() if place[0] == partition]


def test_what_is_not_there_any_more_is_passed_over(connect: Any) -> None:
    """Retention took the start of one partition, compaction the last records of another; a third is empty."""
    cluster = connect()
    cluster.broker.cut(SOURCE, 0, 4)
    for record in cluster.broker.logs[SOURCE, 1][8:]:
        record.state = "aborted"
    cluster.broker.logs[SOURCE, 2].clear()
    only = cluster.member()
    cluster.finish(only)
    kept = {0: range(4, EACH), 1: range(8), 2: range(0)}
    assert cluster.tagged() == [place for place in cluster.right() if place[1] in kept[place[0]]]


def test_a_member_that_is_stopped_commits_what_it_did(connect: Any) -> None:
    """Nothing of it is done again."""
    cluster = connect()
    first = cluster.member()
    while first._job is None or first._job._open != 1:
        first.run_once()
    first.stop()
    assert cluster.tagged() == cluster.right()[:2]
    assert cluster.broker.open == {}
