"""Sends sample uploads: how a service of yours would write events, and something to look at in compose.yaml.

    python deploy/producer.py LABELS.csv BASE_URL [--rate PER_SECOND] [--count N]

LABELS.csv has the columns `file` and `category`; each upload is BASE_URL/file under a new id. Every hundredth
one is deleted again, and every thousandth has an address that leads nowhere. The broker's address is
WORKER_BOOTSTRAP_SERVERS, the topic WORKER_UPLOADS_TOPIC.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import os
import sys
import time
import urllib.parse
import uuid

from confluent_kafka import KafkaError, Message, Producer


def main() -> int:
    parser = argparse.ArgumentParser(description="Sends sample uploads.")
    parser.add_argument("labels", help="a CSV with the columns file and category")
    parser.add_argument("base", help="where the files are served, like http://pictures:8080")
    parser.add_argument("--rate", type=float, default=5.0, help="uploads a second (%(default)s)")
    parser.add_argument("--count", type=int, default=0, help="how many; 0 goes on for ever (%(default)s)")
    args = parser.parse_args()
    with open(args.labels, newline="") as lines:
        pictures = [(row["file"], row["category"]) for row in csv.DictReader(lines)]

    failed: list[KafkaError] = []
    producer = Producer(
        {
            "bootstrap.servers": os.environ.get("WORKER_BOOTSTRAP_SERVERS", "localhost:9092"),
            "enable.idempotence": True,  # in order, and never twice
            "linger.ms": 5,
        }
    )
    topic = os.environ.get("WORKER_UPLOADS_TOPIC", "uploads")

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error)

    def send(upload_id: str, event: dict[str, object] | None) -> None:
        # the id as the key: all events of an id are in one partition, so the last one is known
        value = None if event is None else json.dumps(event).encode()
        producer.produce(topic, value, upload_id.encode(), on_delivery=delivered)
        producer.poll(0)

    started, sent = time.monotonic(), 0
    while not failed and (not args.count or sent < args.count):
        file, category = pictures[sent % len(pictures)]
        path = "/nowhere" if sent % 1000 == 999 else f"/{urllib.parse.quote(file)}"
        upload_id = uuid.uuid4().hex
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        event = {"id": upload_id, "url": args.base + path, "uploaded_at": now}
        send(upload_id, {**event, "attributes": {"folder": category}})
        if sent % 100 == 99:
            send(upload_id, None)
        sent += 1
        time.sleep(max(0.0, started + sent / args.rate - time.monotonic()))
    left = producer.flush(30)
    if failed or left:
        print(f"{left} events were not acknowledged: {failed[0] if failed else 'no answer'}", file=sys.stderr)
        return 1
    print(f"{sent} uploads sent")
    return 0


if __name__ == "__main__":
    sys.exit(main())
