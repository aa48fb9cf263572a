"""What bad uploads cost the good ones: the worker with and without them, on Apache Kafka, in turns.

    KAFKA_HOME=… python -m benchmarks.hostile             three runs of each side
    … --encoder fixed      20 ms a call and no processor (a stand-in for a GPU): fetchers are the limit
    … --bad 0.2            bad uploads for each good one

The bad ones are `tests/hostile`'s corpus, and a tenth of them lead to servers that are silent or drip. They
lie between the good ones in the topic; the clock stops when all good ones are tagged.

Prints a JSON line for each figure (of several runs the median), then a table.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import limits
from benchmarks.common import Figure, clipart_jpegs, machine, model_folder, process_seconds, summed_up, table
from benchmarks.end_to_end import PARTITIONS
from benchmarks.image_server import serving
from benchmarks.sides import Setup, environment, fetcher_processes, moment, parts, total

WARM = 128


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """Of the good uploads; `dead` meanwhile; `restarts` of fetchers.

    `cpu`: milliseconds of a processor that worker and fetchers took, bad uploads included, for each good one.
    """

    images_per_second: float
    cpu: float
    dead: int
    restarts: int
    shares: dict[str, float]


def run_worker(setup: Setup, ports: str, run: str, warm: list[str], urls: list[str], good: int) -> Measured:
    """Tag the uploads of `warm`, then those of `urls`, until `good` of these are tagged."""
    from imgclust.support.machine import keep_freed_memory
    from worker.kafka import topics
    from worker.run import make_tagger, spare_collector
    from worker.settings import load as all_settings
    from worker.telemetry import log as logs
    from worker.telemetry.health import Health
    from worker.telemetry.metrics import Metrics
    from worker.wiring import topics_config

    keep_freed_memory()
    logs.configure("text", level=40)
    settings = all_settings.load({**environment(setup, run), "WORKER_FETCH_ALLOW_PORTS": ports})
    metrics, health = Metrics(), Health(conditions=("assigned", "model", "encoder"))
    topics.ensure(topics_config(settings))
    model, encoder = parts(setup)
    produce(setup.bootstrap, f"uploads-{run}", "warm", warm)
    tagger = make_tagger(settings, model, encoder, metrics, health)
    tagged, dead = metrics.uploads["tagged"], metrics.uploads["dead"]

    def until(count: int) -> float:
        while total(tagged) < count:
            tagger.run_once()
        return time.monotonic()

    try:
        tagger.start()
        spare_collector()
        until(len(warm))
        fetchers = fetcher_processes()
        produce(setup.bootstrap, f"uploads-{run}", "mixed", urls)
        began = moment(metrics)
        started, spent = time.monotonic(), time.process_time() + sum(map(process_seconds, fetchers))
        seconds = until(len(warm) + good) - started
        assert fetcher_processes() == fetchers
        spent = time.process_time() + sum(map(process_seconds, fetchers)) - spent
        shares = began.shares(moment(metrics))
        replaced = tagger.fetchers.restarts
        return Measured(good / seconds, 1000 * spent / good, int(total(dead)), replaced, shares)
    finally:
        tagger.stop(leave_group=True)


def produce(bootstrap: str, topic: str, name: str, urls: Sequence[str]) -> None:
    """Send an upload event for each URL."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20})
    for i, url in enumerate(urls):
        event = json.dumps({"id": f"{name}-{i}", "url": url})
        producer.produce(topic, event, key=f"{name}-{i}", partition=i % PARTITIONS)
    producer.flush()


def mixed(good: Sequence[str], bad: Sequence[str], count: int, share: float) -> list[str]:
    """URLs of `count` good uploads, with `share` bad ones for each, shuffled."""
    rng = random.Random(7)
    urls = [good[i % len(good)] for i in range(count)]
    urls += [rng.choice(bad) for _ in range(round(count * share))]
    rng.shuffle(urls)
    return urls


@contextlib.contextmanager
def surroundings() -> Iterator[tuple[Setup, str, list[str], list[str]]]:
    """The setup, the ports that are allowed, and the URLs of good and of bad pictures."""
    from tests.hostile.answers import endless
    from tests.hostile.corpus import cases, fuzzed
    from tests.hostile.images import seeds
    from tests.support.origin import Origin, drip, silence
    from worker.demo.backends import JavaKafka

    home = os.environ.get("KAFKA_HOME")
    if not home:
        raise SystemExit("set KAFKA_HOME to a folder whose libs/ holds Apache Kafka 4 (with Java 17)")
    good = clipart_jpegs()
    bad = [case.data for case in cases() if case.data] + [data for _, data in fuzzed()]
    slow = {
        "/silent": silence,
        "/drip": drip(seeds()["jpeg"], 1, 0.05),
        "/chunks": endless(
            b"\xff", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunked=True, pause=0.05
        ),
    }
    with (
        JavaKafka(Path(home).resolve()) as kafka,
        serving([*good, *bad]) as urls,
        Origin(slow, host="0.0.0.0").running() as server,
    ):
        port = urlsplit(urls[0]).port
        assert port is not None
        hosts = [f"http://127.0.1.{i}:{server.port}{path}" for i in range(1, 30) for path in slow]
        often = len(bad) // (9 * len(hosts)) + 1
        setup = Setup(kafka.bootstrap, "redis://127.0.0.1:1", port, model_folder(), "mini", True, view=False)
        yield setup, f"{port} {server.port}", urls[: len(good)], urls[len(good) :] + hosts * often


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--good", type=int, default=1000)
    parser.add_argument("--bad", type=float, default=0.2)
    parser.add_argument("--encoder", choices=("mini", "fixed"), default="mini")
    arguments = parser.parse_args()
    print(json.dumps(machine()), flush=True)
    found: dict[float, list[Measured]] = {0.0: [], arguments.bad: []}
    with surroundings() as (setup, ports, good, bad):
        setup = dataclasses.replace(setup, encoder=arguments.encoder)
        for number in range(arguments.runs):
            for share, runs in found.items():
                run = f"hostile-{time.time_ns() // 1_000_000}"
                urls = mixed(good, bad, arguments.good, share)
                job = (setup, ports, run, good[:WARM], urls, arguments.good)
                with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                    runs.append(fresh.submit(run_worker, *job).result())
                limit = limits.held_back(run, runs[-1].shares, arguments.good)
                print(json.dumps({"limit": limit, "bad": share, "shares": runs[-1].shares}), flush=True)
                print(
                    f"{number + 1}/{arguments.runs}, {share:g} bad: {runs[-1]}", file=sys.stderr, flush=True
                )
    alone, beside = found.values()
    name = f"good uploads beside {arguments.bad:g} bad ones each, {arguments.encoder} encoder"
    figures: list[Figure] = [
        summed_up(
            "hostile", name, "images/s",
            [m.images_per_second for m in beside], [m.images_per_second for m in alone],
        ),
        summed_up(
            "hostile", f"{name}: processor", "ms/good image", [m.cpu for m in beside], [m.cpu for m in alone]
        ),
        summed_up("hostile", "dead letters meanwhile", "uploads", [float(m.dead) for m in beside]),
        summed_up("hostile", "fetchers replaced", "processes", [float(m.restarts) for m in beside]),
    ]  # fmt: skip
    lines = []
    for figure in figures:
        print(figure.line(), flush=True)
        lines.append(json.loads(figure.line()))
    print(table(lines))
    limits.end()


if __name__ == "__main__":
    main()
