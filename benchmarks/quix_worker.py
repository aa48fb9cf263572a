"""The worker's job written with Quix Streams, the library that one would pick for it in Python today.

    .bench/quix/bin/python -m benchmarks.quix_worker BOOTSTRAP UPLOADS TAGS exactly-once --call-ms 20
    … --batch 64        as many images in a call of the encoder, at the checkpoints

Run by delivery.py, in an environment of its own (requirements-quix.txt): it wants another confluent-kafka.
Its offsets and transactions are committed at checkpoints, by default every 5 seconds; with batches every
1,024 uploads, or every 0.2 seconds where fewer come.

A step of Quix Streams sees one message, and its windows are by key, of which every upload has its own. What
sees many is a sink: uploads are gathered until a checkpoint and encoded there in batches. Their tags go
through the application's own producer, so that exactly-once has them in its transaction; it is not part of
the public interface, and with `get_producer` the tags would be at-least-once.
"""

import argparse
import json
import time

CHECKPOINT = 1024  # uploads of a checkpoint with batches: sixteen calls of the encoder


def main() -> None:
    from quixstreams import Application

    arguments = parsed()
    app = Application(
        broker_address=arguments.bootstrap,
        consumer_group=f"quix-{arguments.uploads}",
        auto_offset_reset="earliest",
        processing_guarantee=arguments.delivery,
        commit_interval=0.2 if arguments.batch > 1 else 5.0,
        commit_every=CHECKPOINT if arguments.batch > 1 else 0,
        auto_create_topics=False,
        loglevel="WARNING",
    )
    uploads = app.topic(arguments.uploads, value_deserializer="json")
    frame = app.dataframe(uploads)
    if arguments.batch > 1:
        frame.sink(encoding_sink(app, arguments))
    else:

        def tag(upload: dict) -> dict:
            time.sleep(arguments.call_ms / 1000)  # the encoder, for one image
            return tag_of(upload)

        frame.apply(tag).to_topic(app.topic(arguments.tags, value_serializer="json"))
    app.run()


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bootstrap")
    parser.add_argument("uploads")
    parser.add_argument("tags")
    parser.add_argument("delivery", choices=("exactly-once", "at-least-once"))
    parser.add_argument("--call-ms", type=float, default=20.0)
    parser.add_argument("--batch", type=int, default=1, help="images in a call of the encoder (%(default)s)")
    return parser.parse_args()


def tag_of(upload: dict) -> dict:
    return {"id": upload["id"], "cluster": -1, "probability": 0.0, "url": upload["url"]}


def encoding_sink(app, arguments: argparse.Namespace):
    """A sink that encodes what came since the last checkpoint, of all partitions together."""
    from quixstreams.sinks import BaseSink

    class Encoding(BaseSink):
        def __init__(self) -> None:
            super().__init__()
            self.waiting: list[dict] = []

        def add(self, value, key, timestamp, headers, topic, partition, offset) -> None:
            self.waiting.append(value)

        def flush(self) -> None:
            waiting, self.waiting = self.waiting, []
            for start in range(0, len(waiting), arguments.batch):
                time.sleep(arguments.call_ms / 1000)  # the encoder, for a batch
                for upload in waiting[start : start + arguments.batch]:
                    app._producer.produce(arguments.tags, json.dumps(tag_of(upload)), key=upload["id"])

        def on_paused(self) -> None:
            self.waiting.clear()

    return Encoding()


if __name__ == "__main__":
    main()
