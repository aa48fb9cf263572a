"""worker.kafka.topic_ids: asked without waiting, answered late or never, and what counts then."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, TopicCollection

from tests.support.fake_kafka import failure
from worker.kafka.topic_ids import EVERY, PATIENCE, TopicIds

OLD, NEW = "o" * 22, "n" * 22


class Slow:
    """Answers when a test says so."""

    def __init__(self) -> None:
        self.open: list[Future[Any]] = []
        self.asked = 0

    def describe_topics(self, topics: TopicCollection, request_timeout: float) -> dict[str, Future[Any]]:
        self.asked += 1
        self.open.append(Future())
        return {"uploads": self.open[-1]}

    def answer(self, topic_id: str | int) -> None:
        """An id, or the code of an error."""
        future = self.open.pop(0)
        if isinstance(topic_id, int):
            future.set_exception(failure(topic_id))
        else:
            future.set_result(SimpleNamespace(topic_id=topic_id))


class Bench:
    def __init__(self) -> None:
        self.now = 0.0
        self.admin = Slow()
        self.ids = TopicIds({}, ["uploads"], clock=lambda: self.now, admin=self.admin)

    def known(self, topic_id: str) -> None:
        self.ids.poll()
        self.admin.answer(topic_id)
        assert self.ids.poll()


def test_an_answer_is_news_once() -> None:
    """Then it is asked again after a while, and not before."""
    bench = Bench()
    assert not bench.ids.poll()
    assert bench.ids.of("uploads") is None
    bench.admin.answer(OLD)
    assert bench.ids.poll()
    assert not bench.ids.poll()
    assert bench.ids.of("uploads") == OLD
    assert bench.admin.asked == 1
    bench.now += EVERY
    bench.ids.poll()
    assert bench.admin.asked == 2


def test_what_was_asked_before_a_refresh_does_not_count() -> None:
    """Its answer may be older than what happened; nothing is known until the next one is there."""
    bench = Bench()
    bench.known(OLD)
    bench.now += EVERY
    bench.ids.poll()
    bench.ids.refresh()
    bench.admin.answer(OLD)
    assert not bench.ids.poll()
    assert bench.ids.of("uploads") is None
    bench.admin.answer(NEW)
    assert bench.ids.of("uploads") == NEW


def test_an_answer_that_is_there_is_taken_however_rarely_one_looks() -> None:
    """A loop that turns more slowly than the patience does not take a known id for an unknown one."""
    bench = Bench()
    bench.known(OLD)
    bench.ids.refresh()
    for _ in range(3):
        bench.now += 5 * PATIENCE
        assert bench.ids.of("uploads") is None
    bench.ids.poll()
    bench.admin.answer(NEW)
    bench.now += 5 * PATIENCE
    assert bench.ids.of("uploads") == NEW
    assert bench.ids.poll()


def test_brokers_that_are_slow_hold_nobody_up() -> None:
    """After a moment the id counts as one that is not told; the answer counts when it comes."""
    bench = Bench()
    bench.ids.poll()
    bench.now += 2 * PATIENCE
    assert bench.ids.of("uploads") == ""
    bench.admin.answer(NEW)
    assert bench.ids.poll()
    assert bench.ids.of("uploads") == NEW


def test_brokers_that_tell_no_ids_are_believed() -> None:
    """An error that says nothing of the topic, or an id of zeros."""
    for answer in (KafkaError._TIMED_OUT, "A" * 22 + "=="):
        bench = Bench()
        bench.ids.poll()
        bench.admin.answer(answer)
        bench.ids.poll()
        assert bench.ids.of("uploads") == ""
        bench.ids.refresh()
        assert bench.ids.of("uploads") == "", "who never told is not waited for"


def test_a_topic_that_is_gone_is_asked_for_soon() -> None:
    """It is no id that is not told: there is no topic to read."""
    bench = Bench()
    bench.ids.poll()
    bench.admin.answer(KafkaError.UNKNOWN_TOPIC_OR_PART)
    assert bench.ids.poll()
    assert bench.ids.of("uploads") is None
    bench.now += 1.0
    bench.ids.poll()
    bench.admin.answer(NEW)
    assert bench.ids.of("uploads") == NEW


def test_an_error_in_between_changes_nothing() -> None:
    """What was known is known."""
    bench = Bench()
    bench.known(OLD)
    bench.now += EVERY
    bench.ids.poll()
    bench.admin.answer(KafkaError._TRANSPORT)
    bench.ids.poll()
    assert bench.ids.of("uploads") == OLD
