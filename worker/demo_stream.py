"""The demo's second half: events → Kafka, results ← Kafka, and the worker that is between them."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from worker.demo_uploads import DELETED, TAGGED, Event, Ledger, Result
from worker.errors import StartError, WorkerError
from worker.messages import Tag

BUSY = 128  # uploads on their way at once: two batches, so the encoder never waits and latency stays short
READY_SECONDS = 120.0
STOP_SECONDS = 40.0  # WORKER_DRAIN_TIMEOUT is 25
RATE_SECONDS = 5.0
LOG_LINES = 20
_quiet = logging.getLogger("worker.demo")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Samples:
    """What /metrics said at one moment."""

    def __init__(self, text: str = "") -> None:
        families = text_string_to_metric_families(text)
        self._values = {
            (s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """One sample; 0 if it is not there."""
        return float(self._values.get((name, frozenset(labels.items())), 0))


class Worker:
    """`imgclust-worker run` as a process of its own; a context manager that leaves none behind.

    Args:
        environment: the worker's settings.
        address: host:port of its metrics.
        log: the file that it logs to.
    """

    def __init__(self, environment: Mapping[str, str], address: str, log: Path) -> None:
        self._environment = environment
        self._address = address
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker", "run"],
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends the worker in order
            )
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(timeout=5)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its fetchers with it
            process.wait()

    def check(self) -> None:
        """Raises WorkerError, with the end of the log, if the worker has ended."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            shown = "\n".join(lines) or "(its log is empty)"
            raise WorkerError(
                f"the worker ended by itself, exit code {code}; the end of {self.log}:\n{shown}"
            )

    def wait_until_ready(self) -> None:
        """Raises WorkerError if it ends, or is not ready in time."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            self.check()
            if self._get("/readyz") is not None:
                return
            time.sleep(0.1)
        raise WorkerError(f"the worker was not ready within {READY_SECONDS:g} s; see {self.log}")

    def _get(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://{self._address}{path}", timeout=2) as answer:
                return str(answer.read().decode())
        except (OSError, http.client.HTTPException):  # an HTTP error, 503 from /readyz, is an OSError as well
            return None

    def samples(self) -> Samples:
        """What /metrics says now; nothing if it does not answer."""
        return Samples(self._get("/metrics") or "")

    def stop(self) -> int:
        """SIGTERM, as an orchestrator does; returns the exit code.

        Raises:
            WorkerError: it does not end in time.
        """
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise WorkerError(f"the worker did not end within {STOP_SECONDS:g} s of SIGTERM") from None


class Stream:
    """Sends the events of a ledger and reads what becomes of them; a context manager.

    Args:
        kafka: librdkafka's properties that connect.
        topics: uploads, tags and dead letters.
    """

    def __init__(self, kafka: Mapping[str, Any], topics: tuple[str, str, str], ledger: Ledger) -> None:
        self._uploads, self._tags, self._dead = topics
        self._ledger = ledger
        self._next = 0
        self._failed: KafkaError | None = None
        self._arrivals: deque[float] = deque()
        self._started = self._ended = 0.0
        self.busy_rate = 0.0  # results per second while as much was on its way as may be
        self._producer = Producer({**kafka, "linger.ms": 2, "acks": "all"}, logger=_quiet)
        self._consumer = Consumer(
            {
                **kafka,
                "group.id": f"{self._uploads}-reader",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
            },
            logger=_quiet,
        )

    def __enter__(self) -> Stream:
        try:
            parts = [
                TopicPartition(topic, partition, 0)
                for topic in (self._tags, self._dead)
                for partition in self._consumer.list_topics(topic, timeout=20).topics[topic].partitions
            ]
            self._consumer.assign(parts)
        except KafkaException as error:
            raise StartError(f"Kafka does not answer: {error.args[0].str()}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.purge()
        self._consumer.close()

    @property
    def sent(self) -> int:
        return self._next

    def turn(self, wait: float) -> None:
        """Send what may be sent, and read for `wait` seconds at most.

        Raises:
            WorkerError: Kafka refuses an upload.
        """
        self._send()
        self._producer.poll(0)
        if self._failed is not None:
            raise WorkerError(f"Kafka did not take an upload: {self._failed.str()}")
        for message in self._consumer.consume(200, wait):
            if message.error() is None:
                self._read(message)

    def _send(self) -> None:
        self._started = self._started or time.monotonic()
        events = self._ledger.events
        while self._next < len(events) and self._may_send(events[self._next]):
            if events[self._next].calm and not self.busy_rate:
                self.busy_rate = self._next / (self._ended - self._started)
            self._produce(self._next, events[self._next])
            self._next += 1

    def _may_send(self, event: Event) -> bool:
        if event.after is not None and not self._ledger.is_done(event.after):
            return False
        on_the_way = self._next - self._ledger.done
        return on_the_way < (1 if event.calm else BUSY)

    def _produce(self, number: int, event: Event) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._failed = error
                return
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            self._ledger.sent(number, (partition, offset))

        self._producer.produce(self._uploads, key=event.key, value=event.value, on_delivery=delivered)

    def _read(self, message: Message) -> None:
        headers = _headers(message)
        position = int(headers["source-partition"]), int(headers["source-offset"])
        _, written = message.timestamp()
        seconds = max(0, written - int(headers["source-timestamp"])) / 1000
        value = message.value()
        if message.topic() == self._dead:
            reason = headers["error-message"]
            result = Result(headers["error-code"], seconds, value, message=reason)
        elif value is None:
            result = Result(DELETED, seconds, None)
        else:
            result = Result(TAGGED, seconds, value, Tag.from_json(value))
        self._ledger.ended(position, result)
        self._ended = time.monotonic()
        self._arrivals.append(self._ended)

    def rate(self) -> float:
        """Results per second, of the last seconds."""
        now = time.monotonic()
        while self._arrivals and self._arrivals[0] < now - RATE_SECONDS:
            self._arrivals.popleft()
        since = min(RATE_SECONDS, max(now - self._started, 0.1))
        return len(self._arrivals) / since


def _headers(message: Message) -> dict[str, str]:
    pairs = dict(message.headers() or [])
    return {n: value.decode() if isinstance(value, bytes) else str(value) for n, value in pairs.items()}


def worker_environment(settings: Mapping[str, str], *, keep_kafka: bool) -> dict[str, str]:
    """This process's environment with the worker's settings replaced by `settings`.

    Args:
        keep_kafka: WORKER_KAFKA_… stays: how to connect to somebody's own brokers.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WORKER_") or (keep_kafka and name.startswith("WORKER_KAFKA_"))
    }
    return {**kept, **settings}


def topic_names(prefix: str) -> tuple[str, str, str, str]:
    """Uploads, tags, retries, dead letters."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", prefix)
    return f"{name}uploads", f"{name}tags", f"{name}uploads.retry", f"{name}uploads.dlq"
