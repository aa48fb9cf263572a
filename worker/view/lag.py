"""How far the view is behind the tags topic, for the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import OFFSET_END, TopicPartition

from worker.telemetry.metrics import Metrics
from worker.view.backoff import Backoff
from worker.view.positions import Positions
from worker.view.state import Batch, ViewPartition

LAG_SECONDS = 1.0  # between two reports


class Lag:
    """Reports records and seconds that the view is behind."""

    def __init__(
        self,
        topic: str,
        owned: Mapping[int, ViewPartition],
        positions: Positions,
        backoff: Backoff,
        *,
        metrics: Metrics,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._topic, self._owned = topic, owned
        self._positions, self._backoff, self._metrics = positions, backoff, metrics
        self._clock, self._now = clock, now
        self._next = 0.0

    def report(self, consumer: Any, batch: Batch) -> None:
        """Once a second.

        Raises:
            KafkaException: the brokers do not say where the topic ends.
        """
        if self._clock() < self._next:
            return
        self._next = self._clock() + LAG_SECONDS
        waiting = 0
        for partition, high in self._ends(consumer).items():
            state = self._owned[partition]
            if high >= 0 and state.next is not None:
                behind = max(0, high - state.next)
                waiting += behind
                self._metrics.set_view_lag(partition, behind)
        oldest = min((record.timestamp for record in batch.records), default=None)
        age = 0.0 if oldest is None else max(0.0, self._now() - oldest / 1000)
        if waiting:
            age = max(age, self._backoff.seconds)
        self._metrics.view_lag_seconds.set(age)

    def _ends(self, consumer: Any) -> dict[int, int]:
        """Where the owned partitions end; below 0 while that is not known."""
        if self._backoff.waiting:
            return self._positions.edges(self._owned, OFFSET_END)  # nothing is fetched, so it must be asked
        ends = {}
        for partition in self._owned:
            position = TopicPartition(self._topic, partition)
            ends[partition] = int(consumer.get_watermark_offsets(position, cached=True)[1])
        return ends
