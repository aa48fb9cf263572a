"""What the worker relies on in Kafka: the same tests for the stand-in and for Apache Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from tests.contracts import clusters
from tests.contracts.clusters import Cluster
from tests.support.waiting import PATIENCE, wait_for
from worker.kafka.assignment import is_member

TIMEOUT = PATIENCE


@pytest.fixture(params=["fake", pytest.param("apache", marks=pytest.mark.kafka)])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = (
        clusters.fake() if request.param == "fake" else clusters.real(request.getfixturevalue("apache_kafka"))
    )
    yield made
    made.close()


def fill(cluster: Cluster, topic: str, *values: bytes, partition: int = 0) -> None:
    producer = cluster.producer()
    for value in values:
        producer.produce(topic, value=value, key=b"k", partition=partition, headers=[("n", b"1")])
    assert producer.flush(TIMEOUT) == 0


def error_of(caught: pytest.ExceptionInfo[KafkaException]) -> KafkaError:
    error: KafkaError = caught.value.args[0]
    return error


# ── producers ────────────────────────────────────────────────────────────────────────────────────────────


def test_acknowledgements_come_in_polls_and_in_order(cluster: Cluster) -> None:
    """Never while `produce` runs; once for each record; the log has the order of the calls."""
    producer, answers = cluster.producer(), []

    def answered(n: int) -> Any:
        return lambda error, _: answers.append((n, error))

    for n in range(20):
        producer.produce(cluster.tags, value=b"%d" % n, key=b"k", partition=1, on_delivery=answered(n))
        assert answers == []

    def all_there() -> bool:
        producer.poll(0.05)
        return len(answers) == 20

    wait_for("all are acknowledged", all_there)
    assert answers == [(n, None) for n in range(20)]
    assert cluster.reader(cluster.tags).values() == {0: [], 1: [b"%d" % n for n in range(20)]}


def test_a_flush_waits_for_the_acknowledgements(cluster: Cluster) -> None:
    """It returns 0 when there is an answer for everything."""
    producer, answers = cluster.producer(), []
    producer.produce(
        cluster.tags, value=None, key=b"k", partition=0, on_delivery=lambda error, _: answers.append(error)
    )
    assert producer.flush(TIMEOUT) == 0
    assert answers == [None]
    assert cluster.reader(cluster.tags).values()[0] == [None]


# ── transactions ─────────────────────────────────────────────────────────────────────────────────────────


def send_one(cluster: Cluster, producer: Any, value: bytes, partition: int = 0) -> None:
    producer.begin_transaction()
    producer.produce(cluster.tags, value=value, key=b"k", partition=partition, headers=[("n", b"1")])


def test_a_transaction_is_seen_whole_when_it_is_committed(cluster: Cluster) -> None:
    """Its records, and the offsets of the group with their metadata; nothing of it before."""
    member = cluster.member().settled()
    producer = cluster.transactional()
    send_one(cluster, producer, b"tag")
    assert cluster.reader(cluster.tags).values()[0] == []
    offsets = member.here(0, 7, "2:mark:AQ==")
    producer.send_offsets_to_transaction(offsets, member.client.consumer_group_metadata(), TIMEOUT)
    producer.commit_transaction(TIMEOUT)
    assert cluster.reader(cluster.tags).values()[0] == [b"tag"]
    (found,) = member.client.committed(member.here(0), timeout=TIMEOUT)
    assert (found.offset, found.metadata) == (7, "2:mark:AQ==")


def test_an_aborted_transaction_leaves_no_record_and_no_offset(cluster: Cluster) -> None:
    """The same producer goes on: what it publishes again is there once, behind what the abort left."""
    member = cluster.member().settled()
    producer = cluster.transactional()
    for end in (producer.abort_transaction, producer.commit_transaction):
        send_one(cluster, producer, b"tag")
        assert producer.flush(TIMEOUT) == 0
        membership = member.client.consumer_group_metadata()
        producer.send_offsets_to_transaction(member.here(0, 7), membership, TIMEOUT)
        end(TIMEOUT)
        (found,) = member.client.committed(member.here(0), timeout=TIMEOUT)
        aborted = end == producer.abort_transaction
        assert found.offset == (OFFSET_INVALID if aborted else 7)
    assert cluster.reader(cluster.tags).values()[0] == [b"tag"]
    here = TopicPartition(cluster.tags, 0)
    reader = cluster.reader(cluster.tags)
    assert reader.client.get_watermark_offsets(here, timeout=TIMEOUT) == (0, 4)  # two records, two markers


def test_an_open_transaction_hides_what_comes_behind_it(cluster: Cluster) -> None:
    """Readers of committed records stop before it; others see where the log ends."""
    dead, successor = cluster.transactional("dead"), cluster.transactional("successor")
    send_one(cluster, dead, b"open")
    assert dead.flush(TIMEOUT) == 0
    send_one(cluster, successor, b"behind")
    successor.commit_transaction(TIMEOUT)
    reader = cluster.reader(cluster.tags)
    assert reader.values()[0] == []
    here = TopicPartition(cluster.tags, 0)
    assert reader.client.get_watermark_offsets(here, timeout=TIMEOUT) == (0, 0)
    everything = cluster.reader(cluster.tags, **{"isolation.level": "read_uncommitted"}).client
    assert everything.get_watermark_offsets(here, timeout=TIMEOUT) == (0, 3)
    dead.abort_transaction(TIMEOUT)
    assert reader.values()[0] == [b"behind"]


def test_offsets_of_an_open_transaction_hold_the_committed_one_back(cluster: Cluster) -> None:
    """Who asks for it gets no answer until the transaction is over."""
    member = cluster.member().settled()
    producer = cluster.transactional()
    send_one(cluster, producer, b"tag")
    membership = member.client.consumer_group_metadata()
    producer.send_offsets_to_transaction(member.here(0, 7), membership, TIMEOUT)
    with pytest.raises(KafkaException) as caught:
        member.client.committed(member.here(0), timeout=0.5)
    assert error_of(caught).code() == KafkaError._TIMED_OUT
    producer.commit_transaction(TIMEOUT)
    assert member.client.committed(member.here(0), timeout=TIMEOUT)[0].offset == 7


def test_a_new_producer_of_the_name_fences_the_old_one(cluster: Cluster) -> None:
    """What the old one left open is aborted, and it can do nothing more: a fatal error."""
    old = cluster.transactional()
    send_one(cluster, old, b"old")
    assert old.flush(TIMEOUT) == 0
    new = cluster.transactional()
    with pytest.raises(KafkaException) as caught:
        old.commit_transaction(TIMEOUT)
    assert error_of(caught).fatal()
    assert error_of(caught).code() == KafkaError._FENCED
    send_one(cluster, new, b"new")
    new.commit_transaction(TIMEOUT)
    assert cluster.reader(cluster.tags).values()[0] == [b"new"]


def test_a_member_that_left_commits_nothing(cluster: Cluster) -> None:
    """Its offsets are refused, the transaction can only be aborted, and its results are not seen."""
    member = cluster.member().settled()
    membership = member.client.consumer_group_metadata()
    member.client.close()
    producer = cluster.transactional()
    send_one(cluster, producer, b"tag")
    with pytest.raises(KafkaException) as caught:
        producer.send_offsets_to_transaction(member.here(0, 7), membership, TIMEOUT)
    assert error_of(caught).code() == KafkaError.UNKNOWN_MEMBER_ID
    assert error_of(caught).txn_requires_abort()
    assert not error_of(caught).fatal()
    producer.abort_transaction(TIMEOUT)
    assert cluster.reader(cluster.tags).values()[0] == []


def test_metadata_has_a_length_that_is_taken_and_one_that_is_not(cluster: Cluster) -> None:
    """4,095 bytes; one more is refused, and the transaction can only be aborted."""
    member = cluster.member().settled()
    producer = cluster.transactional()
    for length in (4095, 4096):
        producer.begin_transaction()
        offsets, membership = member.here(0, 7, "m" * length), member.client.consumer_group_metadata()
        if length == 4095:
            producer.send_offsets_to_transaction(offsets, membership, TIMEOUT)
            producer.commit_transaction(TIMEOUT)
            continue
        with pytest.raises(KafkaException) as caught:
            producer.send_offsets_to_transaction(offsets, membership, TIMEOUT)
        assert error_of(caught).code() == KafkaError.OFFSET_METADATA_TOO_LARGE
        assert error_of(caught).txn_requires_abort()
        producer.abort_transaction(TIMEOUT)
    (found,) = member.client.committed(member.here(0), timeout=TIMEOUT)
    assert found.metadata == "m" * 4095


# ── consumers ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_member_reads_its_partitions_in_order(cluster: Cluster) -> None:
    """Assigned in a poll, then each partition's records by offset, with key, headers and time."""
    fill(cluster, cluster.uploads, *(b"%d" % n for n in range(10)))
    fill(cluster, cluster.uploads, b"other", partition=1)
    member = cluster.member()
    member.wait("all are read", lambda: len(member.messages) == 11)
    assert {p for _, partitions in member.events for p in partitions} == {0, 1}
    first = [m for m in member.messages if m.partition() == 0]
    assert [(m.offset(), m.value()) for m in first] == [(n, b"%d" % n) for n in range(10)]
    assert (first[0].key(), first[0].headers(), first[0].topic()) == (b"k", [("n", b"1")], cluster.uploads)
    kind, milliseconds = first[0].timestamp()
    assert kind != 0
    assert milliseconds > 0


def test_the_committed_offset_is_what_was_committed(cluster: Cluster) -> None:
    """With its metadata; none at first. A later commit may also be lower."""
    member = cluster.member().settled()
    assert member.client.committed(member.here(0), timeout=TIMEOUT)[0].offset == OFFSET_INVALID
    for offset, metadata in ((5, "2::AQ=="), (3, "")):
        member.client.commit(offsets=member.here(0, offset, metadata), asynchronous=False)
        (found,) = member.client.committed(member.here(0), timeout=TIMEOUT)
        assert (found.offset, found.metadata or "") == (offset, metadata)
    assert member.client.committed(member.here(1), timeout=TIMEOUT)[0].offset == OFFSET_INVALID


def test_a_commit_that_is_not_waited_for_is_answered_in_a_poll(cluster: Cluster) -> None:
    """Once, with what was committed; also for a topic that the group does not read."""
    answers: list[Any] = []
    member = cluster.member(on_commit=lambda error, found: answers.append((error, found))).settled()
    for topic in (cluster.uploads, cluster.tags):
        here = TopicPartition(topic, 1, 3, "id")
        member.client.commit(offsets=[here], asynchronous=True)
        member.wait("it is answered", lambda: answers)
        ((error, (found,)),) = answers
        assert (error, found.topic, found.partition) == (None, topic, 1)
        (stored,) = member.client.committed([TopicPartition(topic, 1)], timeout=TIMEOUT)
        assert (stored.offset, stored.metadata) == (3, "id")
        answers.clear()


def test_all_ends_are_one_question(cluster: Cluster) -> None:
    """Also behind what is not decided; a partition that is not there fails alone."""
    fill(cluster, cluster.tags, b"0", b"1")
    producer = cluster.transactional()
    send_one(cluster, producer, b"open")
    assert producer.flush(TIMEOUT) == 0
    admin = cluster.admin()
    asked = {TopicPartition(cluster.tags, p): OffsetSpec.latest() for p in (0, 1, 7)}  # type: ignore[no-untyped-call]

    def ends() -> dict[int, Any]:
        found = admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=TIMEOUT
        )
        return {
            here.partition: answer.exception(TIMEOUT) or answer.result().offset
            for here, answer in found.items()
        }

    wait_for("the broker leads them", lambda: ends()[1] == 0)  # a moment after the topic was made
    found = ends()
    assert (found[0], found[1]) == (3, 0)
    assert found[7].args[0].code() in (KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART)
    producer.abort_transaction(TIMEOUT)


def test_a_paused_partition_brings_nothing_and_a_seek_moves_it(cluster: Cluster) -> None:
    """While one is paused the other goes on; after `resume` it is read from where `seek` said."""
    member = cluster.member().settled()
    member.client.pause(member.here(0))
    fill(cluster, cluster.uploads, b"0", b"1", b"2")
    fill(cluster, cluster.uploads, b"other", partition=1)
    member.wait("the other partition is read", lambda: member.messages)
    assert [m.value() for m in member.messages] == [b"other"]

    def moved() -> bool:
        try:
            member.client.seek(member.here(0, 2)[0])
        except KafkaException:  # its reading has not begun yet
            member.poll()
            return False
        return True

    wait_for("the partition can be moved", moved)
    member.client.resume(member.here(0))
    member.wait("it is read from there", lambda: len(member.messages) == 2)
    assert (member.messages[1].offset(), member.messages[1].value()) == (2, b"2")


def test_a_partition_that_is_not_assigned_cannot_be_moved(cluster: Cluster) -> None:
    """`seek` refuses, as it does before the assignment has begun to be read."""
    member = cluster.member().settled()
    member.client.incremental_unassign(member.here(0))
    with pytest.raises(KafkaException):
        member.client.seek(member.here(0, 1)[0])


def test_a_position_outside_of_the_log_is_an_error(cluster: Cluster) -> None:
    """Nothing is skipped in silence: the partition's error comes in the place of a record."""
    fill(cluster, cluster.uploads, b"0")
    member = cluster.member().settled()
    member.client.incremental_unassign(member.here(0))
    member.messages.clear()
    member.client.incremental_assign(member.here(0, 99))
    member.wait("the error comes", lambda: any(m.error() for m in member.messages))
    (message,) = [m for m in member.messages if m.error()]
    assert (message.error().code(), message.partition()) == (KafkaError._AUTO_OFFSET_RESET, 0)
    assert all(m.error() for m in member.messages)


def test_what_is_paused_before_it_is_assigned_is_not_read(cluster: Cluster) -> None:
    """Not even for a moment: 0 is no longer in the log, and that is no error before somebody reads there."""
    fill(cluster, cluster.uploads, b"0", b"1", b"2")
    cluster.cut(cluster.uploads, 0, 2)
    fill(cluster, cluster.uploads, b"other", partition=1)
    member = cluster.member(paused=True).settled()
    member.client.resume(member.here(1))
    member.wait("the other partition is read", lambda: member.messages)
    member.client.seek(member.here(0, 2)[0])
    member.client.resume(member.here(0))
    member.wait("it is read", lambda: len(member.messages) == 2)
    assert [(m.error(), m.value()) for m in member.messages] == [(None, b"other"), (None, b"2")]


def test_members_share_partitions_and_take_over(cluster: Cluster) -> None:
    """Who comes later gets what the first gives back, and never before; who leaves gives all back."""
    first = cluster.member().settled()
    second = cluster.member()
    first.settled(second)
    assert first.owned | second.owned == {0, 1}
    (taken,) = second.owned
    assert ("revoked", (taken,)) in first.events
    second.client.close()
    assert second.owned == set()
    assert second.events[-1] == ("revoked", (taken,))
    first.wait("it owns all again", lambda: first.owned == {0, 1})


def test_the_membership_tells_whether_there_is_one(cluster: Cluster) -> None:
    """With a name and a generation while the group is joined, and none before."""
    member = cluster.member()
    assert not is_member(member.client.consumer_group_metadata())
    member.settled()
    assert is_member(member.client.consumer_group_metadata())


def test_the_end_of_a_partition_is_an_event_where_it_is_asked_for(cluster: Cluster) -> None:
    """Once for each time that the end is reached, at the offset that comes next."""
    fill(cluster, cluster.tags, b"0", b"1")
    client = cluster.reader(cluster.tags).client
    client.incremental_assign([TopicPartition(cluster.tags, 0, OFFSET_BEGINNING)])
    seen: list[Any] = []

    def read(count: int) -> list[tuple[int, bool]]:
        def enough() -> bool:
            seen.extend(client.consume(10, 0.05))
            return len(seen) >= count

        wait_for("records and ends", enough)
        return [(m.offset(), m.error() is not None) for m in seen]

    assert read(3) == [(0, False), (1, False), (2, True)]
    fill(cluster, cluster.tags, b"2")
    assert read(5) == [(0, False), (1, False), (2, True), (2, False), (3, True)]
