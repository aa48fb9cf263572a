"""The view's commits: none is waited for, none overtakes another, and none counts for another assignment."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.kafka.assignment import OwnedPartitions
from worker.view.commits import AGAIN_SECONDS, LOST_SECONDS, Commits
from worker.view.state import ViewPartition
from worker.view.store import Reached


class Client:
    """What a consumer was asked to commit."""

    def __init__(self) -> None:
        self.sent: list[dict[int, int]] = []
        self.refuses = False

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> None:
        assert asynchronous
        if self.refuses:
            raise KafkaException(KafkaError(KafkaError._STATE))
        self.sent.append({p.partition: p.offset for p in offsets})


class View:
    def __init__(self, *partitions: int) -> None:
        self.time = 0.0
        self.owned = OwnedPartitions(ViewPartition)
        for partition in partitions:
            self.owned.begin(partition)
        self.commits = Commits("tags", self.owned, lambda: self.time)
        self.client: Any = Client()

    def step(self) -> None:
        self.commits.step(self.client)

    def answer(self, error: int | None = None) -> None:
        """The broker answers the last commit."""
        positions = [TopicPartition("tags", p, offset) for p, offset in self.client.sent[-1].items()]
        self.commits.answered(None if error is None else KafkaError(error), positions)


def test_one_commit_is_on_its_way_at_a_time() -> None:
    """What is done meanwhile goes with the next one, and what the group has is not sent again."""
    view = View(0, 1)
    view.owned[0].next = 5
    view.step()
    view.owned[0].next, view.owned[1].next = 7, 3
    view.step()
    assert view.client.sent == [{0: 5}]
    assert view.commits.busy
    view.answer()
    view.step()
    assert view.client.sent == [{0: 5}, {0: 7, 1: 3}]
    view.answer()
    view.step()
    assert len(view.client.sent) == 2
    assert not view.commits.busy


def test_a_commit_that_failed_is_sent_again_after_a_while() -> None:
    """Whether the broker refuses it or the client; never in every round."""
    view = View(0)
    view.owned[0].next = 5
    view.step()
    view.answer(KafkaError._TIMED_OUT)
    view.step()
    assert len(view.client.sent) == 1
    view.time += AGAIN_SECONDS
    view.step()
    assert view.client.sent == [{0: 5}, {0: 5}]
    view.answer()
    view.owned[0].next = 6
    view.client.refuses = True
    with pytest.raises(KafkaException):
        view.step()
    view.client.refuses = False
    view.step()
    assert len(view.client.sent) == 2
    view.time += AGAIN_SECONDS
    view.step()
    assert view.client.sent[-1] == {0: 6}


@pytest.mark.parametrize("answers", [True, False])
def test_the_last_commit_is_waited_for_but_not_for_long(answers: bool) -> None:
    """Before the group is left; an answer ends the wait, and so does the time."""
    view = View(0)
    view.owned[0].next = 5

    def consume(_: int, seconds: float) -> None:
        view.time += seconds
        if answers:
            view.answer()

    view.client.consume = consume
    view.commits.finish(view.client, 1.0)
    assert view.client.sent == [{0: 5}]
    assert view.owned[0].committed == (5 if answers else None)
    assert view.time < 2


def test_an_answer_counts_only_for_its_own_assignment() -> None:
    """A partition that went and came back knows nothing of what an earlier assignment committed."""
    view = View(0)
    view.owned[0].next = 5
    view.step()
    view.owned.end(0)
    state = view.owned.begin(0)
    view.answer()
    assert state.committed is None


def test_the_group_hears_where_a_partition_is_read_again_from() -> None:
    """And nothing before the tags of a topic that is gone are removed: the group shows it."""
    view = View(0)
    state = view.owned[0]
    state.committed, state.rewind, state.clearing = 9000, Reached(0, 1), iter([1])
    view.step()
    assert not view.client.sent
    state.clearing = None
    view.step()
    assert view.client.sent == [{0: 0}]


def test_a_client_that_never_answers_is_not_waited_for_for_ever() -> None:
    """Longer than its own time-outs, but not for ever."""
    view = View(0)
    view.owned[0].next = 5
    view.step()
    view.time += LOST_SECONDS - 1
    view.step()
    assert len(view.client.sent) == 1
    assert view.commits.waiting == LOST_SECONDS - 1
    view.time += 1
    view.step()
    assert len(view.client.sent) == 2
