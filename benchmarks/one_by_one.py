"""The worker's job as it is written on the first day: poll, process, produce, flush, commit, one by one.

    python -m benchmarks.one_by_one BOOTSTRAP UPLOADS TAGS --call-ms 20
    … --batch 64        as many at a time: one call of the encoder, one flush, one commit

Run by delivery.py. Nothing is lost by it; what was tagged and not committed when it dies is tagged again.
"""

from __future__ import annotations

import argparse
import json
import time

MAX_WAIT = 0.02  # seconds for a batch to fill, as the worker's


def main() -> None:
    from confluent_kafka import Consumer, Producer

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bootstrap")
    parser.add_argument("uploads")
    parser.add_argument("tags")
    parser.add_argument("--call-ms", type=float, default=20.0)
    parser.add_argument("--batch", type=int, default=1, help="images in a call of the encoder (%(default)s)")
    arguments = parser.parse_args()
    kafka = {"bootstrap.servers": arguments.bootstrap}
    consumer = Consumer(
        kafka
        | {
            "group.id": f"one-by-one-{arguments.uploads}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([arguments.uploads])
    producer = Producer(kafka)
    while True:
        messages = [m for m in consumer.consume(arguments.batch, MAX_WAIT) if m.error() is None]
        if not messages:
            continue
        uploads = [json.loads(message.value() or b"") for message in messages]
        time.sleep(arguments.call_ms / 1000)  # the encoder, for one image or one batch
        for upload in uploads:
            tag = {"id": upload["id"], "cluster": -1, "probability": 0.0, "url": upload["url"]}
            producer.produce(arguments.tags, json.dumps(tag), key=upload["id"])
        producer.flush()
        consumer.commit(asynchronous=False)


if __name__ == "__main__":
    main()
