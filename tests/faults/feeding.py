"""Sends planned events, each exactly once, and remembers where they went."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from confluent_kafka import KafkaError, Message, Producer

from tests.faults.checker import Event
from tests.faults.surroundings import quiet
from tests.faults.uploads import Planned

LOG = (
    10**9
)  # offsets of each topic of that name, one made after the other, are counted on from a multiple of it


class Feeder:
    """A thread that sends as many events as were granted, at a steady rate.

    The producer is idempotent and never gives up, so a broker that dies neither loses nor repeats one.
    """

    def __init__(self, bootstrap: str, topic: str, planned: Iterator[Planned], rate: float) -> None:
        self.events: list[Event] = []
        self.failed: str | None = None
        self._topic = topic
        self._planned = planned
        self._interval = 1 / rate
        self._granted = threading.Semaphore(0)
        self._stop = threading.Event()
        self._sent = self._allowed = self._base = 0
        self._bootstrap = bootstrap
        self._producer = self._connect()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._thread.start()

    def _connect(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": 0,
                "linger.ms": 2,
            },
            logger=quiet,
        )

    def grant(self, count: int) -> None:
        """Send so many more."""
        if count > 0:
            self._allowed += count
            self._granted.release(count)

    def has_sent_all(self) -> bool:
        """Whether all that were granted are acknowledged."""
        return len(self.events) == self._allowed

    def begin_anew(self) -> None:
        """From now on the topic is another one; nothing is on its way."""
        self._producer = self._connect()
        self._base += LOG

    def _run(self) -> None:
        due = time.monotonic()
        for planned in self._planned:
            while not self._granted.acquire(timeout=0.1):
                self._producer.poll(0)
                due = time.monotonic()
                if self._stop.is_set():
                    return
            due += self._interval
            self._send(planned)
            self._producer.poll(max(0.0, due - time.monotonic()))

    def _send(self, planned: Planned) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.failed = error.str()
                return
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            self.events.append(
                Event(
                    planned.number, planned.id, partition, self._base + offset,
                    planned.cluster, planned.deletion, planned.codes,
                )
            )  # fmt: skip

        self._sent += 1
        self._producer.produce(
            self._topic, planned.value, planned.id.encode(), planned.partition, on_delivery=delivered
        )

    def finish(self, count: int, seconds: float) -> None:
        """Wait until all `count` events are acknowledged.

        Raises:
            RuntimeError: they are not, within so many seconds.
        """
        deadline = time.monotonic() + seconds
        self._thread.join(seconds)
        self._stop.set()
        self._producer.flush(max(1.0, deadline - time.monotonic()))
        if self.failed is not None or len(self.events) < count:
            raise RuntimeError(f"only {len(self.events)} of {count} events were sent: {self.failed}")
