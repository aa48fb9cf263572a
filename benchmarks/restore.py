"""How long a partition's pending retries take to come back after a restart, and what they take in memory.

    KAFKA_HOME=… python -m benchmarks.restore [--retries 1000000]

Writes that many pending retries into one partition of a real retry topic, as a worker writes them, and then
restores them as a worker does when the partition is assigned: read from the start to the end, and into the
table with its heaps. Prints JSON lines.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
import uuid
from pathlib import Path

import orjson
from confluent_kafka import Producer

from benchmarks.common import Figure
from worker.demo.backends import JavaKafka
from worker.kafka.client_config import changelog_config
from worker.kafka.pending_retries import PendingRetries
from worker.kafka.retry_changelog import Pending, RetryChangelog


def write(bootstrap: str, topic: str, count: int) -> None:
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 20, "compression.type": "lz4", "acks": 1,
         "queue.buffering.max.messages": 200_000}
    )  # fmt: skip
    now = int(time.time() * 1000)
    for n in range(count):
        upload_id = f"upload-{n:08d}-{uuid.uuid4().hex[:12]}"
        value = orjson.dumps(
            {"id": upload_id, "url": f"https://cdn.example/pictures/{n // 1000}/{upload_id}.jpg"}
        )
        headers = [
            ("source-topic", b"uploads"), ("source-partition", b"0"), ("source-offset", b"%d" % n),
            ("source-timestamp", b"%d" % now), ("attempt", b"2"), ("not-before", b"%d" % (now + n % 600_000)),
            ("error-code", b"fetch-failed"), ("content-type", b"application/json"),
        ]  # fmt: skip
        while True:
            try:
                producer.produce(topic, value, upload_id, 0, headers=headers)  # type: ignore[arg-type]
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def resident() -> float:
    """Megabytes at the peak."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def restore(bootstrap: str, topic: str) -> tuple[float, float, float, int]:
    """Wall seconds, processor seconds, those of the longest turn, and how many came back."""
    reader = RetryChangelog(
        changelog_config({"bootstrap.servers": bootstrap}, "restore"), topic, clock=time.monotonic,
        wall_ms=lambda: time.time_ns() // 1_000_000, longest=600.0,
    )  # fmt: skip
    wall, cpu, longest = time.monotonic(), time.process_time(), 0.0
    reader.begin(0, 1)
    done: list[tuple[int, int, PendingRetries[Pending]]] = []
    while not done:
        turn = time.thread_time()
        done = reader.poll()
        longest = max(longest, time.thread_time() - turn)
        if not done:
            time.sleep(0.0005)  # the loop does other things in between
    ((_, _, table),) = done
    taken = (time.monotonic() - wall, time.process_time() - cpu, longest, len(table))
    reader.close()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--retries", type=int, default=1_000_000, help="pending retries (%(default)s)")
    count: int = parser.parse_args().retries
    home = os.environ.get("KAFKA_HOME")
    if not home:
        parser.error("set KAFKA_HOME to a folder whose libs/ holds Apache Kafka 4")
    with JavaKafka(Path(home).resolve()) as kafka:
        topic = f"retry-{uuid.uuid4().hex[:8]}"
        kafka.create_topics([topic], 1)
        write(kafka.bootstrap, topic, count)
        before = resident()
        wall, cpu, longest, found = restore(kafka.bootstrap, topic)
    if found != count:
        raise SystemExit(f"{found} of {count} pending retries came back")
    for figure, unit, value in (
        ("pending retries restored", "uploads", float(found)),
        ("wall time", "s", wall),
        ("processor time", "s", cpu),
        ("longest turn of the loop, processor time", "s", longest),
        ("memory", "MB", resident() - before),
    ):
        print(Figure("restore", figure, unit, value).line(), flush=True)


if __name__ == "__main__":
    main()
