"""The worker's job written with Quix Streams, the library that one would pick for it in Python today.

    .bench/quix/bin/python -m benchmarks.quix_worker BOOTSTRAP UPLOADS TAGS exactly-once --call-ms 20

Run by delivery.py, in an environment of its own (requirements-quix.txt): it wants another confluent-kafka.
Its offsets and transactions are committed at checkpoints, by default every 5 seconds.
"""

import argparse
import time


def main() -> None:
    from quixstreams import Application

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bootstrap")
    parser.add_argument("uploads")
    parser.add_argument("tags")
    parser.add_argument("delivery", choices=("exactly-once", "at-least-once"))
    parser.add_argument("--call-ms", type=float, default=20.0)
    parser.add_argument("--commit-interval", type=float, default=5.0, help="seconds (%(default)s)")
    arguments = parser.parse_args()
    app = Application(
        broker_address=arguments.bootstrap,
        consumer_group=f"quix-{arguments.uploads}",
        auto_offset_reset="earliest",
        processing_guarantee=arguments.delivery,
        commit_interval=arguments.commit_interval,
        auto_create_topics=False,
        loglevel="WARNING",
    )

    def tag(upload: dict) -> dict:
        time.sleep(arguments.call_ms / 1000)  # the encoder, for one image
        return {"id": upload["id"], "cluster": -1, "probability": 0.0, "url": upload["url"]}

    uploads = app.topic(arguments.uploads, value_deserializer="json")
    tags = app.topic(arguments.tags, value_serializer="json")
    app.dataframe(uploads).apply(tag).to_topic(tags)
    app.run()


if __name__ == "__main__":
    main()
