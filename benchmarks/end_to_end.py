"""The worker from end to end, beside the naive loop: real Apache Kafka, real Redis, real HTTP.

    KAFKA_HOME=… python -m benchmarks.end_to_end                      the quick set, one run
    KAFKA_HOME=… python -m benchmarks.end_to_end --runs 5             five runs of each side, in turns
    … --images photos      photographs of 640 × 427 instead of the clip-art example's JPEGs
    … --only fixed         one of: fixed, fixed-unpredicted, mini
    … --no-view            the worker without its Redis view

Both sides get the same model, JPEGs, broker, Redis and web server; uploads wait in the topic before the
clock starts, so what is measured is what the worker can take, not what it is given. "fixed" is an encoder
that takes 20 ms for each call of up to 64 images and no processor (a stand-in for a GPU);
"fixed-unpredicted" leaves the prediction out on both sides; "mini" is a real encoder on the processor.

Prints a JSON line for each figure (of several runs the median), then a table. A run in which uploads waited
while neither the machine's processors nor the encoder was busy is no result: the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import limits
from benchmarks.common import (
    Figure,
    clipart_jpegs,
    machine,
    model_folder,
    photo_jpegs,
    redis_url,
    summed_up,
    table,
)
from benchmarks.image_server import serving
from benchmarks.sides import Measured, Setup, run_naive, run_worker

PARTITIONS = 8  # the worker's default where it makes the topics
IMAGES = {"clipart": clipart_jpegs, "photos": photo_jpegs}


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One comparison; counts are of uploads, those that warm up first."""

    name: str
    encoder: str
    predict: bool
    worker: tuple[int, int]
    naive: tuple[int, int]


CASES = (
    Case("fixed", "fixed", True, (1000, 5000), (10, 150)),
    Case("fixed-unpredicted", "fixed", False, (1000, 5000), (10, 150)),
    Case("mini", "mini", True, (128, 512), (10, 60)),
)


def uploaded(bootstrap: str, topic: str, urls: Sequence[str], count: int) -> None:
    """Make the topic, with `count` upload events in it."""
    from confluent_kafka import Producer

    from worker.demo.backends import make_topics

    make_topics(bootstrap, [topic], PARTITIONS)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50})
    for i in range(count):
        event = {"id": f"upload-{i}", "url": urls[i % len(urls)]}
        producer.produce(topic, json.dumps(event), key=event["id"], partition=i % PARTITIONS)
        producer.poll(0)
    producer.flush()


def one_run(setup: Setup, case: Case, urls: Sequence[str], run: str, naive: ProcessPoolExecutor) -> Any:
    """One run of the worker, in a fresh process, then one of the naive loop, in the process that it keeps."""
    sides = [(f"{run}-worker", case.worker), (f"{run}-naive", case.naive)]
    for name, counts in sides:
        uploaded(setup.bootstrap, f"uploads-{name}", urls, sum(counts))
    from worker.demo.backends import make_topics

    make_topics(setup.bootstrap, [f"tags-{run}-naive"], PARTITIONS)
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        ours = fresh.submit(run_worker, setup, sides[0][0], *case.worker).result()
    return ours, naive.submit(run_naive, setup, sides[1][0], *case.naive).result()


def figures(
    case: Case, pairs: Sequence[tuple[Measured, tuple[float, float]]], images: str
) -> Iterator[Figure]:
    name = f"worker {case.name}, {images}"
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    yield summed_up(name, "images/s", "images/s", [m.images_per_second for m in ours], [t[0] for t in theirs])
    yield summed_up(name, "CPU, parent outside encoder and predictor", "ms/image", [m.parent for m in ours])
    without_view = [m.parent - m.threads.get("view", 0.0) for m in ours]
    yield summed_up(name, "CPU, the same without the view's thread", "ms/image", without_view)
    for part in sorted(set().union(*(m.threads for m in ours)) - {"compute", "other"}):
        yield summed_up(name, f"CPU, parent: {part}", "ms/image", [m.threads.get(part, 0.0) for m in ours])
    yield summed_up(name, "CPU, fetchers", "ms/image", [m.fetchers for m in ours])
    both = [m.parent + m.fetchers for m in ours]
    yield summed_up(name, "CPU, parent and fetchers", "ms/image", both, [t[1] for t in theirs])
    yield summed_up(name, "images in a batch", "images", [m.batch for m in ours])


def measured(
    case: Case, arguments: argparse.Namespace, setup: Setup, urls: Sequence[str]
) -> Iterator[Figure]:
    setup = dataclasses.replace(setup, encoder=case.encoder, predict=case.predict)
    with ProcessPoolExecutor(1, get_context("spawn")) as naive:
        pairs = []
        for number in range(arguments.runs):
            run = f"{case.name}-{time.time_ns() // 1_000_000}-{number}"
            pairs.append(one_run(setup, case, urls, run, naive))
            limit = limits.held_back(run, pairs[-1][0].shares, case.worker[1])
            print(json.dumps({"limit": limit, "side": case.name, "shares": pairs[-1][0].shares}), flush=True)
            say(f"{case.name} {number + 1}/{arguments.runs}: {pairs[-1]}")
    yield from figures(case, pairs, arguments.images)


@contextlib.contextmanager
def surroundings(images: str, view: bool, fetchers: int) -> Iterator[tuple[Setup, list[str]]]:
    """Kafka, Redis and the web server, and what both sides are told of them."""
    from worker.demo.backends import JavaKafka

    home = os.environ.get("KAFKA_HOME")
    if not home:
        raise SystemExit(
            "set KAFKA_HOME to a folder whose libs/ holds Apache Kafka 4 (with Java 17): the embedded mock "
            "cluster is no broker to measure on"
        )
    model = model_folder()
    with (
        JavaKafka(Path(home).resolve()) as kafka,
        redis_url() as redis,
        serving(IMAGES[images]()) as urls,
    ):
        port = urlsplit(urls[0]).port
        assert port is not None
        yield Setup(kafka.bootstrap, redis, port, model, "fixed", True, view, fetchers), urls


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--images", choices=IMAGES, default="clipart")
    parser.add_argument("--only", choices=[case.name for case in CASES])
    parser.add_argument("--no-view", action="store_true")
    parser.add_argument("--fetchers", type=int, default=0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers are stopped on the way out
    print(json.dumps(machine()), flush=True)
    lines = []
    with surroundings(arguments.images, not arguments.no_view, arguments.fetchers) as (setup, urls):
        for case in CASES:
            if arguments.only in (None, case.name):
                for figure in measured(case, arguments, setup, urls):
                    print(figure.line(), flush=True)
                    lines.append(json.loads(figure.line()))
    print(table(lines))
    limits.end()


if __name__ == "__main__":
    main()
