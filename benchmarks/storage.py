"""What one tag takes in Kafka and in Redis, in bytes; docs/capacity.md reckons with it.

    KAFKA_HOME=… python -m benchmarks.storage             both; without KAFKA_HOME only Redis
    … --tags 100000

Tags as the worker makes them (three candidates, a URL of 71 characters, one attribute, an id of 20), written
by the worker's own code: the view's store, and results in transactions with the worker's producer settings.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import Figure, machine, redis_url, table
from worker.messages.tag import Candidate, Tag

CLUSTERS, PARTITIONS, NAMES = (
    40,
    8,
    ("food", "tweet screenshots", "animals", "selfies", "motivational quotes"),
)
AT = "2026-11-23T21:17:00.000Z"
PER_TRANSACTION = (1, 16, 128)  # at 20, 320 and 2,560 uploads/s in one worker, one transaction each 50 ms


def tags(count: int) -> Iterator[Tag]:
    chance = random.Random(0)
    now = time.time_ns() // 1_000_000
    for number in range(count):
        upload_id = f"{chance.getrandbits(80):020x}"
        first = chance.randrange(-1, CLUSTERS)
        candidates = tuple(
            Candidate(c, NAMES[c % len(NAMES)], round(chance.random(), 6))
            for c in chance.sample(range(CLUSTERS), 3)
        )
        yield Tag(
            id=upload_id,
            cluster=first,
            name=NAMES[first % len(NAMES)] if first >= 0 else None,
            probability=round(chance.random(), 6),
            candidates=candidates,
            novel=False,
            model="d4833586c6cf",
            taxonomy="d4833586c6cf",
            url=f"https://cdn.example.com/uploads/2026/11/{upload_id}/original.jpg",
            uploaded_at=now + number,
            tagged_at=now + number + 230,
            attributes={"lang": chance.choice(["de", "en", "es", "pt"])},
        )


def in_redis(count: int, packed: bool = False) -> list[Figure]:
    import redis

    from worker.view.records import read_record
    from worker.view.store import TagsView

    with redis_url() as url:
        client = redis.Redis.from_url(url)
        view = TagsView(client, packed=packed)
        empty = int(client.info("memory")["used_memory"])
        records = [
            read_record(tag.id.encode(), tag.to_json(), i % PARTITIONS, i, tag.uploaded_at)
            for i, tag in enumerate(tags(count))
        ]
        for start in range(0, count, 500):
            view.apply(records[start : start + 500], {})
        used = int(client.info("memory")["used_memory"]) - empty
        sets = sum(
            int(client.memory_usage(key, samples=0) or 0)
            for key in client.scan_iter("imgclust:*:cluster:*", 1000)
        )
    size = sum(len(record.value or b"") for record in records) / count
    if packed:
        return [
            Figure("Redis, compact", "memory for each tag, all keys", "bytes", used / count),
            Figure("Redis, compact", "of that in the sets of clusters", "bytes", sets / count),
        ]
    return [
        Figure("Redis", "a tag's JSON", "bytes", size),
        Figure("Redis", "memory for each tag, all keys", "bytes", used / count),
        Figure("Redis", "of that in the sets of clusters", "bytes", sets / count),
    ]


def in_kafka(home: Path, count: int) -> list[Figure]:
    """Bytes on disk of uploads, uncompressed, and of tags with headers and the transactions' markers."""
    import orjson
    from confluent_kafka import Producer

    from worker.demo.backends import JavaKafka
    from worker.kafka.client_config import transaction_config
    from worker.kafka.delivery import Result, wire_headers
    from worker.messages.record import Record

    figures = []
    with JavaKafka(home) as kafka:
        names = ["uploads", *(f"tags-{n}" for n in PER_TRANSACTION)]
        kafka.create_topics(names, PARTITIONS)

        def on_disk(topic: str) -> float:
            logs = (kafka.folder / "log").glob(f"{topic}-*/*.log")
            return sum(log.stat().st_size for log in logs if log.parent.name.rpartition("-")[0] == topic)

        made = list(tags(count))
        plain = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 5})
        for number, tag in enumerate(made):
            event = {"id": tag.id, "url": tag.url, "uploaded_at": AT, "attributes": tag.attributes}
            plain.produce("uploads", orjson.dumps(event), tag.id.encode(), number % PARTITIONS)
            plain.poll(0)
        plain.flush(60)
        del plain
        figures.append(Figure("Kafka", "an upload event", "bytes", on_disk("uploads") / count))
        for size in PER_TRANSACTION:
            topic = f"tags-{size}"
            some = made[: min(count, 2000 * size)]
            producer = Producer(transaction_config({"bootstrap.servers": kafka.bootstrap}, f"bench-{size}"))
            producer.init_transactions(30)
            for start in range(0, len(some), size):
                producer.begin_transaction()
                for number, tag in enumerate(some[start : start + size], start):
                    source = Record(number % PARTITIONS, 1, number // PARTITIONS, None, b"", tag.uploaded_at)
                    result = Result(topic, tag.id.encode(), tag.to_json(), source)
                    producer.produce(
                        topic, result.value, result.key, source.partition,
                        headers=wire_headers(result, ("source-topic", b"uploads")),
                    )  # fmt: skip
                producer.commit_transaction(30)
            del producer
            figures.append(
                Figure("Kafka", f"a tag, {size} in a transaction", "bytes", on_disk(topic) / len(some))
            )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tags", type=int, default=100_000, help="%(default)s")
    arguments = parser.parse_args()
    print(machine())
    figures = in_redis(arguments.tags) + in_redis(arguments.tags, packed=True)
    if home := os.environ.get("KAFKA_HOME"):
        figures += in_kafka(Path(home).resolve(), arguments.tags)
    else:
        print("KAFKA_HOME is not set: Kafka is left out")
    for figure in figures:
        print(figure.line())
    print(table([json.loads(figure.line()) for figure in figures]))


if __name__ == "__main__":
    main()
