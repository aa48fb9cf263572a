"""The offsets of the view's group, committed without waiting for the broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from worker.kafka.assignment import OwnedPartitions
from worker.telemetry import log as logs
from worker.view.state import ViewPartition

log = logs.get(__name__)

AGAIN_SECONDS = 1.0  # after a commit that failed
ANSWER_SECONDS = 0.1  # between two looks for an answer at the end
LOST_SECONDS = 120.0  # a client that has not answered by then will not: its own time-outs are a minute


class Commits:
    """Tells the group how far each partition is; one commit is on its way at a time.

    So commits arrive in their order, and a partition that is to be read again knows when the group has
    forgotten that it was further.

    Args:
        topic: the tags topic.
        owned: partition → state; `to_commit` is what is wanted, `committed` what the group has.
        clock: seconds, steady.
    """

    def __init__(self, topic: str, owned: OwnedPartitions[ViewPartition], clock: Callable[[], float]) -> None:
        self._topic, self._owned, self._clock = topic, owned, clock
        self._sent: dict[int, int] = {}  # partition → epoch
        self._sent_at = 0.0
        self._not_before = 0.0

    @property
    def busy(self) -> bool:
        """Whether a commit is on its way."""
        return bool(self._sent)

    @property
    def waiting(self) -> float:
        """Seconds since the commit that is on its way was sent; 0 without one."""
        return self._clock() - self._sent_at if self._sent else 0.0

    def step(self, consumer: Any) -> None:
        """Send what the group does not know yet, unless a commit is on its way.

        Raises:
            KafkaException: the client does not take it.
        """
        if self._clock() < self._not_before or (self._sent and self.waiting < LOST_SECONDS):
            return
        self._sent = {}
        positions = [
            TopicPartition(self._topic, partition, wanted, state.topic)
            for partition, state in self._owned.items()
            if (wanted := state.to_commit) is not None and wanted != state.committed
        ]
        if not positions:
            return
        self._not_before = self._clock() + AGAIN_SECONDS  # if the client refuses
        consumer.commit(offsets=positions, asynchronous=True)
        self._sent = {here.partition: self._owned[here.partition].epoch for here in positions}
        self._sent_at, self._not_before = self._clock(), 0.0

    def finish(self, consumer: Any, seconds: float) -> None:
        """Before the group is left: what is not committed within `seconds` is written to Redis once more."""
        deadline = self._clock() + seconds
        try:
            self.step(consumer)
            while self._sent and self._clock() < deadline:
                consumer.consume(1, ANSWER_SECONDS)  # brings answers; records are nobody's any more
                self.step(consumer)
        except KafkaException as error:
            log.warning("the view's last commit failed", error=error.args[0].str())

    def answered(self, error: KafkaError | None, positions: list[TopicPartition]) -> None:
        """librdkafka's `on_commit`."""
        sent, self._sent = self._sent, {}
        failed = error
        for position in positions:
            state = self._owned.of_epoch(position.partition, sent.get(position.partition, 0))
            if position.error is not None or error is not None:
                failed = position.error or error
            elif state is not None:
                state.committed = position.offset
        if failed is not None:
            self._not_before = self._clock() + AGAIN_SECONDS
            log.warning("the view's commit failed; trying again", error=failed.str(), code=failed.name())
