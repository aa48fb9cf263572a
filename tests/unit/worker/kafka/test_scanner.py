"""Questions to a topic whose leaders are not there yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.errors import WorkerError
from worker.kafka import scanner as module
from worker.kafka.scanner import Scanner

MOMENTS = [
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
]


Scanning = Callable[["Client"], Scanner]


class Client:
    """A consumer that answers with errors first, for the whole request or for one partition."""

    def __init__(self, errors: Iterable[int], *, of_partition: bool = False) -> None:
        self.errors = deque(errors)
        self.of_partition = of_partition
        self.questions = 0

    def _error(self) -> KafkaError | None:
        self.questions += 1
        error = KafkaError(self.errors.popleft()) if self.errors else None
        if error is not None and not self.of_partition:
            raise KafkaException(error)
        return error

    def get_watermark_offsets(self, *_: object, **__: object) -> tuple[int, int]:
        self._error()
        return 3, 7

    def offsets_for_times(self, asked: list[TopicPartition], **_: object) -> list[Any]:
        error = self._error()
        found = [Answer(p.partition, 5) for p in asked]
        if error is not None:
            found[-1] = Answer(found[-1].partition, -1, error)
        return found


class Answer:
    """A `TopicPartition` of an answer; only librdkafka can give one an error."""

    def __init__(self, partition: int, offset: int, error: KafkaError | None = None) -> None:
        self.partition, self.offset, self.error = partition, offset, error


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0)


@pytest.fixture
def scanner(monkeypatch: pytest.MonkeyPatch) -> Scanning:
    def made(client: Client) -> Scanner:
        monkeypatch.setattr(module, "Consumer", lambda *_, **__: client)
        return Scanner({})

    return made


@pytest.mark.parametrize("code", MOMENTS)
def test_a_leader_that_is_not_there_yet_is_asked_again(scanner: Scanning, code: int) -> None:
    """As right after a topic was made, or while a broker restarts."""
    client = Client([code, code])
    assert scanner(client).bounds("uploads", 2) == (3, 7)
    assert client.questions == 3


@pytest.mark.parametrize("code", MOMENTS)
def test_one_partition_without_a_leader_is_not_taken_for_read(scanner: Scanning, code: int) -> None:
    """Its answer has no offset, which would mean that all its records are older than was asked for."""
    client = Client([code], of_partition=True)
    assert scanner(client).offsets_at("uploads", [0, 1], 1000) == {0: 5, 1: 5}
    assert client.questions == 2


@pytest.mark.parametrize("code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._TIMED_OUT])
def test_any_other_answer_ends_the_command(scanner: Scanning, code: int) -> None:
    client = Client([code])
    with pytest.raises(WorkerError, match="'uploads', partition 2, cannot be read"):
        scanner(client).bounds("uploads", 2)
    assert client.questions == 1


def test_it_is_not_asked_forever(scanner: Scanning, monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic that is gone for good ends the command with what the broker says."""
    monkeypatch.setattr(module, "TIMEOUT", 0)
    with pytest.raises(WorkerError, match="Unknown topic or partition"):
        scanner(Client(MOMENTS[-1:] * 9)).bounds("uploads", 2)
