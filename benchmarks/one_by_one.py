"""The worker's job as it is written on the first day: poll, process, produce, flush, commit, one by one.

    python -m benchmarks.one_by_one BOOTSTRAP UPLOADS TAGS --call-ms 20

Run by delivery.py. Nothing is lost by it; what was tagged and not committed when it dies is tagged again.
"""

from __future__ import annotations

import argparse
import json
import time


def main() -> None:
    from confluent_kafka import Consumer, Producer

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bootstrap")
    parser.add_argument("uploads")
    parser.add_argument("tags")
    parser.add_argument("--call-ms", type=float, default=20.0)
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
        message = consumer.poll(1.0)
        if message is None or message.error() is not None:
            continue
        value = message.value()
        assert value is not None
        upload = json.loads(value)
        time.sleep(arguments.call_ms / 1000)  # the encoder, for one image
        tag = {"id": upload["id"], "cluster": -1, "probability": 0.0, "url": upload["url"]}
        producer.produce(arguments.tags, json.dumps(tag), key=upload["id"])
        producer.flush()
        consumer.commit(message=message, asynchronous=False)


if __name__ == "__main__":
    main()
