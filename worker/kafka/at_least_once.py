"""At-least-once delivery: a result is safe when the broker acknowledged it, then its offset is committed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from worker.kafka.consumer import UploadsConsumer
from worker.kafka.delivery import (
    REVOKE_COMMIT,
    STEP,
    OnRefused,
    Result,
    cut_or_raise,
    is_refused,
    log,
    refused,
    size_of,
    wire_headers,
)
from worker.kafka.reading import client_log
from worker.messages.record import Record
from worker.telemetry.metrics import Metrics

# A partition whose broker is slow holds up the results of others no longer than this.
ROUND_PATIENCE = 0.25  # seconds
ANSWER = 0.05  # seconds between two looks for the answer to the last commit


_LEAVING = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._DESTROY)


Place = tuple[int, int, int, bool]


def _place(source: Record) -> Place:
    """What a result counts for. A retry's own results are none of its upload's: the offset is done with the
    record of the first retry, and a broker may be slower with it than the retry is due."""
    return source.partition, source.epoch, source.offset, source.handed_over


class AtLeastOnce:
    """Publishes results and marks offsets as done when all their results are safe; see `Delivery`.

    Results leave in rounds: while one is on its way, the next one gathers, so that a slow broker gets fewer
    and larger requests. An idempotent producer has at most five of them on their way, and while more wait,
    librdkafka's thread spins: with a request for every few results it burned 0.12 ms of a core for each.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        uploads_topic: str,
        consumer: UploadsConsumer,
        *,
        interval: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`interval`: seconds between two commits."""
        self._uploads_topic = uploads_topic.encode()
        self._consumer = consumer
        self._interval = interval
        self._metrics = metrics
        self._stage = metrics.stages["publish"]
        self._clock = clock
        self._waiting = 0
        self._left: Counter[Place] = Counter()  # results that are not safe yet
        self._bytes = 0
        self._gathered: list[Result] = []
        self._singles: list[Result] = []  # of requests that were refused
        self._lone: Result | None = None  # the one that was sent with nothing beside it
        self.on_refused: OnRefused = cut_or_raise
        self._round_at = -ROUND_PATIENCE
        self._commit_at = clock()
        self._fatal: KafkaError | None = None
        self._producer = Producer({**config, "error_cb": self._on_error}, logger=client_log)

    @property
    def waiting(self) -> int:
        return self._waiting

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    def publish(self, *results: Result) -> None:
        self._stage.enter(len(results))
        for result in results:
            self._take(result, self._gathered)

    def _take(self, result: Result, to: list[Result]) -> None:
        self._waiting += 1
        self._left[_place(result.source)] += 1
        self._bytes += size_of(result)
        to.append(result)

    def _drop(self, partitions: set[int]) -> None:
        """Forget results that wait for the next round and whose partition is somebody else's by now."""
        dropped = []
        for waiting in (self._gathered, self._singles):
            dropped += [result for result in waiting if result.source.partition in partitions]
            waiting[:] = [result for result in waiting if result.source.partition not in partitions]
        self._waiting -= len(dropped)
        self._bytes -= sum(map(size_of, dropped))
        self._stage.leave(len(dropped), "dropped")
        for result in dropped:
            self._left.pop(_place(result.source), None)
            result.ended("dropped")

    def _start_round(self) -> None:
        """Hand what has gathered to the producer; never waits for the broker unless its queue is full."""
        self._round_at = self._clock()
        gathered, self._gathered = self._gathered, []
        for result in gathered:
            self._hand_over(result)

    def _hand_over(self, result: Result) -> None:
        headers = wire_headers(result, self._uploads_topic)
        while not self._produce(result, headers):
            self._producer.poll(0.1)  # the queue is full: let acknowledgements in
            self._raise_fatal()

    def _produce(self, result: Result, headers: list[tuple[str, str | bytes | None]]) -> bool:
        try:
            self._producer.produce(
                result.topic,
                key=result.key,
                value=result.value,
                partition=result.source.partition,
                headers=headers,
                on_delivery=lambda error, _: self._delivered(result, error),
            )
        except BufferError:
            return False
        except KafkaException as error:
            self._delivered(result, error.args[0])
        return True

    def _delivered(self, result: Result, error: KafkaError | None) -> None:
        self._waiting -= 1
        self._bytes -= size_of(result)
        place = _place(result.source)
        self._left[place] -= 1
        if error is None:
            self._stage.leave()
            if self._left[place] <= 0:  # the last of an upload's results: now it is done
                del self._left[place]
                self._consumer.done(result.source)
            result.ended()
            return
        self._metrics.produce_errors.inc()
        log.error(
            "publishing failed", topic=result.topic, partition=result.source.partition, error=error.str()
        )
        if is_refused(error):
            self._isolate(result, error)
        elif self._fatal is None and error.code() not in _LEAVING:
            self._fatal = error

    def _isolate(self, result: Result, error: KafkaError) -> None:
        """A broker refuses a whole request: what was in it is sent again, one at a time, and what is refused
        alone is replaced."""
        if result is not self._lone:
            self._take(result, self._singles)
            return
        for other in self.on_refused(result, error):
            self._stage.enter()
            self._take(other, self._singles)
        self._stage.leave(1, "dropped")
        place = _place(result.source)
        if self._left[place] <= 0:
            del self._left[place]
            self._consumer.done(result.source)

    def run_once(self) -> None:
        self._poll()
        now = self._clock()
        if now >= self._commit_at:
            self._commit_at = now + self._interval
            self._consumer.commit()

    def _poll(self) -> None:
        """Take in acknowledgements; start the next round when the last one is safe."""
        self._producer.poll(0)
        self._raise_fatal()
        on_the_way = self._waiting - len(self._gathered) - len(self._singles)
        if self._singles:
            if not on_the_way:
                self._lone = self._singles.pop(0)
                self._hand_over(self._lone)
        elif self._gathered and (not on_the_way or self._clock() - self._round_at >= ROUND_PATIENCE):
            self._start_round()

    def leave(self, partitions: set[int], lost: bool) -> None:
        if lost:
            self._drop(partitions)
            return
        if self._waiting:
            self._flush(REVOKE_COMMIT)
        self._consumer.commit(leaving=partitions)
        self._drop(partitions)

    def finish(self, timeout: float) -> bool:
        safe = self._flush(timeout)
        self._consumer.commit(leaving=set(self._consumer.partitions))
        deadline = self._clock() + STEP
        while self._consumer.committing and self._clock() < deadline:
            self._consumer.poll(1, ANSWER)
        return safe

    def _flush(self, timeout: float) -> bool:
        """Wait until everything is acknowledged, at most `timeout` seconds; whether it was."""
        deadline = self._clock() + timeout
        self._start_round()
        while True:
            left = max(0.0, deadline - self._clock())
            if self._producer.flush(min(STEP, left)) == 0:
                if not self._singles:
                    return not self._gathered
                self._poll()
            if self._clock() >= deadline:
                return False

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error
        else:
            log.warning("Kafka client", error=error.str())

    def _raise_fatal(self) -> None:
        """Nothing may be published after a result that was not: whoever comes next begins before it."""
        if self._fatal is not None:
            raise refused(self._fatal)
