"""Does twice the number of workers tag twice as fast, and is nothing lost while they come and go?

    KAFKA_HOME=… python -m benchmarks.scale [--workers 1 2 4 8] [--call-ms 200]

Worker processes of one group share the eight partitions of a topic. As in delivery.py nothing is fetched or
decoded, and the encoder takes a fixed time for each call of up to 64 images, so that a worker's capacity is
known and many of them fit on few cores. Efficiency is the rate of n workers over n times the rate of one.
The last part starts two workers, lets two more join under load and two leave, and counts what arrived.

Prints a JSON line for each figure, then a table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks import limits
from benchmarks.common import Figure, machine, process_seconds, table
from benchmarks.delivery import (
    BROKER_CORE,
    PARTITIONS,
    WORKER_CORE,
    Arrivals,
    Bench,
    Stalled,
    make_topics,
    new_run,
    preload,
    say,
    started,
    surroundings,
)

SIDE = "exactly-once"
CORES = f"{BROKER_CORE},{WORKER_CORE}"  # the broker has the first one too
PATIENCE = 120.0  # seconds for a group to spread over its members
IMAGES_A_CALL = 64


def partitions_of(process: subprocess.Popen[bytes]) -> int:
    """How many partitions a worker owns, from its metrics; 0 while it does not answer."""
    environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    addresses = [v.removeprefix(b"WORKER_HTTP=") for v in environment if v.startswith(b"WORKER_HTTP=")]
    if not addresses:  # it is still this process, about to become the worker
        return 0
    with contextlib.suppress(OSError):
        url = f"http://{addresses[0].decode()}/metrics"
        text = urllib.request.urlopen(url, timeout=2).read().decode()
        found = re.search(r"^imgclust_consumer_assigned_partitions ([\d.]+)$", text, re.M)
        return int(float(found[1])) if found else 0
    return 0


def wait_until_spread(processes: list[subprocess.Popen[bytes]]) -> None:
    """Wait until each worker has its share of the partitions."""
    share = PARTITIONS // len(processes)
    deadline = time.monotonic() + PATIENCE
    while any(partitions_of(p) != share for p in processes):
        if any(p.poll() is not None for p in processes):
            raise Stalled("a worker ended while the group was spreading: see its log")
        if time.monotonic() > deadline:
            raise Stalled(f"the group has not spread evenly within {PATIENCE:g} s")
        time.sleep(0.5)


def middle_rate(arrivals: Arrivals) -> float:
    """Tags per second between the arrival of the first and the last fifth."""
    times = sorted(arrivals.at.values())
    low, high = len(times) // 5, len(times) * 4 // 5
    return (high - low) / (times[high] - times[low])


def moment(processes: list[subprocess.Popen[bytes]]) -> limits.Moment:
    return limits.Moment.now(sum(limits.encoder_seconds(p.pid) or 0.0 for p in processes))


def scaled(bench: Bench, workers: int, seconds: float) -> tuple[float, float]:
    """Tags per second of so many workers, and milliseconds of their processors for each tag."""
    run = new_run(f"scale-{workers}")
    make_topics(bench, run)
    count = int(workers * seconds * IMAGES_A_CALL * 1000 / bench.call_ms)
    arrivals = Arrivals(bench.bootstrap, f"tags-{run}")
    try:
        with contextlib.ExitStack() as stack:
            processes = [stack.enter_context(started(SIDE, bench, run, cores=CORES)) for _ in range(workers)]
            wait_until_spread(processes)
            began, before = moment(processes), sum(process_seconds(p.pid) for p in processes)
            preload(bench, f"uploads-{run}", count)
            arrivals.wait_for(count, processes[0])
            used = sum(process_seconds(p.pid) for p in processes) - before
            shares = began.shares(moment(processes), workers)
        limit = limits.held_back(run, shares, count)
        print(json.dumps({"limit": limit, "workers": workers, "shares": shares}), flush=True)
        return middle_rate(arrivals), 1000 * used / count
    finally:
        arrivals.close()


def come_and_go(bench: Bench, seconds: float) -> Iterator[Figure]:
    """Two workers; two more join under load; two leave; every upload is tagged once."""
    run = new_run("scale-coming-and-going")
    make_topics(bench, run)
    count = int(3 * seconds * IMAGES_A_CALL * 1000 / bench.call_ms)
    arrivals = Arrivals(bench.bootstrap, f"tags-{run}")
    try:
        with contextlib.ExitStack() as stack:
            first = [stack.enter_context(started(SIDE, bench, run, cores=CORES)) for _ in range(2)]
            wait_until_spread(first)
            preload(bench, f"uploads-{run}", count)
            arrivals.wait_for(count // 8, first[0])
            joined = [stack.enter_context(started(SIDE, bench, run, cores=CORES)) for _ in range(2)]
            wait_until_spread([*first, *joined])
            for process in first:
                process.terminate()
                process.wait(60)
            arrivals.wait_for(count, joined[0])
            time.sleep(2)  # a tag that comes twice comes late
        yield Figure("scale", "two joined and two left under load: uploads", "uploads", count)
        yield Figure("scale", "two joined and two left under load: tagged", "uploads", len(arrivals.at))
        yield Figure(
            "scale", "two joined and two left under load: tagged twice", "uploads", arrivals.repeated
        )
    finally:
        arrivals.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8], help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement (%(default)s)")
    parser.add_argument("--call-ms", type=float, default=200.0, help="of the encoder (%(default)s)")
    arguments = parser.parse_args()
    if wrong := [n for n in arguments.workers if n < 1 or PARTITIONS % n]:
        parser.error(f"--workers must divide the {PARTITIONS} partitions; got {wrong}")
    print(json.dumps(machine()), flush=True)
    lines: list[dict[str, object]] = []

    def tell(figure: Figure) -> None:
        print(figure.line(), flush=True)
        lines.append(json.loads(figure.line()))

    with surroundings(arguments.call_ms) as bench:
        one = 0.0
        for workers in arguments.workers:
            rate, used = scaled(bench, workers, arguments.seconds)
            say(f"{workers}: {rate:.0f} tags/s")
            tell(Figure("scale", f"{workers} workers: throughput", "tags/s", rate))
            tell(Figure("scale", f"{workers} workers: CPU of the workers", "ms/tag", used))
            if workers == 1:
                one = rate
            elif one:
                tell(Figure("scale", f"{workers} workers: efficiency", "ratio", rate / (workers * one)))
        for figure in come_and_go(bench, arguments.seconds):
            tell(figure)
    print(table(lines))
    limits.end()


if __name__ == "__main__":
    main()
