"""worker.view.recovery: the order of a rewind is safe to die in; an unanswered question changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from worker.kafka.assignment import OwnedPartitions
from worker.kafka.retention import DeleteRetention
from worker.telemetry.metrics import Metrics
from worker.view.client import RedisTrouble
from worker.view.commits import Commits
from worker.view.positions import KAFKA_TIMEOUT
from worker.view.recovery import LOST, REQUESTED, Recovery
from worker.view.state import ViewPartition
from worker.view.store import Reached

LOW, HIGH = 10, 90


class Steps:
    """Kafka's client, Redis and the sweeper; what they were asked, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.away = self.unread = self.redis_away = False
        self.group: dict[int, int] = {}
        self.redis: dict[int, Reached] = {}
        self.clears = 0

    # Kafka

    def _answer(self, timeout: float) -> None:
        assert timeout <= KAFKA_TIMEOUT
        if self.away:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def offsets_for_times(self, asked: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self._answer(timeout)
        return [
            TopicPartition(p.topic, p.partition, LOW if p.offset == OFFSET_BEGINNING else HIGH) for p in asked
        ]

    def list_topics(self, topic: str, timeout: float) -> None:
        self._answer(timeout)

    def committed(self, asked: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self._answer(timeout)
        return [TopicPartition(p.topic, p.partition, self.group.get(p.partition, -1001)) for p in asked]

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        self.done += [f"commit {p.offset}" for p in offsets]

    def seek(self, to: TopicPartition) -> None:
        if self.unread:
            raise KafkaException(KafkaError(KafkaError._STATE))
        self.done.append(f"seek {to.offset}")

    def of(self, topic: str) -> str:
        return ""  # brokers that tell no ids

    # Redis

    def reached(self, partitions: list[int]) -> dict[int, Reached]:
        return {p: self.redis.get(p, Reached()) for p in partitions}

    def restart(self, starts: dict[int, Reached]) -> None:
        if self.redis_away:
            raise RedisTrouble("away", "gone")
        self.done += [f"redis {start.offset}" for start in starts.values()]

    def clear(self, partition: int) -> Iterator[int]:
        self.clears += 1
        for _ in range(2):
            if self.redis_away:
                raise RedisTrouble("away", "gone")
            self.done.append("clear")
            yield 5


class View:
    def __init__(self) -> None:
        self.steps = Steps()
        self.owned = OwnedPartitions(ViewPartition)
        self.state = self.owned.begin(0)
        self.commits = Commits("tags", self.owned, lambda: 0.0)
        fakes: Any = self.steps
        self.recovery = Recovery(
            "tags", self.owned, self.commits, fakes, fakes,
            drop=lambda partitions: self.steps.done.append("drop"), retention=DeleteRetention({}, "tags"),
            ids=fakes, metrics=Metrics(), clock=lambda: 0.0, now=lambda: 1.0,
        )  # fmt: skip
        self.recovery.connect(fakes)

    def round(self) -> None:
        self.recovery.begin()
        self.recovery.proceed()
        self.commits.step(self.steps)

    def answer(self, offset: int) -> None:
        self.commits.answered(None, [TopicPartition("tags", 0, offset)])


def test_the_group_forgets_then_redis_learns_then_records_follow() -> None:
    """Whoever dies in between is followed by one who finds it out again from what group and Redis say."""
    view = View()
    view.steps.group, view.steps.redis = {0: 50}, {0: Reached(20, 7)}
    for _ in range(3):
        view.round()
    assert view.steps.done == ["drop", "commit 20"]
    assert view.state.next is None
    view.answer(20)
    view.round()
    assert view.steps.done == ["drop", "commit 20", "redis 20", "seek 20"]
    assert (view.state.next, view.state.at, view.state.rewind) == (20, 7, None)


def test_a_partition_that_redis_knows_goes_on() -> None:
    """Nothing is committed, nothing is told to Redis; while the client has not begun, it is tried again."""
    view = View()
    view.steps.group, view.steps.redis = {0: 50}, {0: Reached(50, 7)}
    view.steps.unread = True
    view.round()
    assert view.state.next is None
    view.steps.unread = False
    view.round()
    assert view.steps.done == ["seek 50"]
    assert view.state.next == 50


@pytest.mark.parametrize("reason", [LOST, REQUESTED])
def test_a_rewind_that_cannot_ask_has_not_happened(reason: str) -> None:
    """The broker is away: the partition goes on as it was, and what was read of it is kept."""
    view = View()
    view.steps.group, view.steps.redis = {0: 50}, {0: Reached(50, 7)}
    view.round()
    view.steps.away = True
    with pytest.raises(KafkaException):
        view.recovery.rewind({0: Reached()}, reason)
    assert (view.state.next, view.state.rewind) == (50, None)
    assert "drop" not in view.steps.done


def test_a_commit_on_its_way_is_waited_for() -> None:
    """It says that the group is further; only after it may Redis hear where it stands."""
    view = View()
    view.steps.group, view.steps.redis = {0: 10}, {0: Reached(10, 7)}
    view.round()
    view.state.next = 60
    view.round()
    view.recovery.rewind({0: Reached()}, REQUESTED)
    view.state.committed = LOW  # as an older commit left it
    view.round()
    assert "redis 10" not in view.steps.done
    view.answer(60)
    view.round()
    assert view.steps.done[-1] == "commit 10"
    view.answer(10)
    view.round()
    assert view.steps.done[-2:] == ["redis 10", "seek 10"]


def test_redis_being_away_repeats_only_its_part() -> None:
    """The group is asked nothing more, and the seek waits."""
    view = View()
    view.steps.group = {0: 50}
    view.round()
    view.answer(LOW)
    view.steps.redis_away = True
    with pytest.raises(RedisTrouble):
        view.round()
    view.steps.redis_away = False
    view.round()
    assert view.steps.done == ["drop", "commit 10", "redis 10", "seek 10"]


def test_the_tags_of_a_topic_that_is_gone_are_removed_first() -> None:
    """In steps, from the beginning after trouble, and before the group forgets what shows that it is gone."""
    view = View()
    view.steps.group = {0: 9000}
    view.steps.redis = {0: Reached(9000, 7)}
    view.round()
    assert view.steps.done == ["drop", "clear"]
    view.steps.redis_away = True
    with pytest.raises(RedisTrouble):
        view.round()
    view.steps.redis_away = False
    for _ in range(3):
        view.round()
    assert view.steps.done == ["drop", "clear", "clear", "clear", "commit 10"]
    view.answer(LOW)
    view.round()
    assert view.steps.done[-2:] == ["redis 10", "seek 10"]
