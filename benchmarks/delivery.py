"""What delivery costs, and who waits for whom: exactly-once beside at-least-once, and beside other ways.

    KAFKA_HOME=… python -m benchmarks.delivery                       all of it, one run
    KAFKA_HOME=… python -m benchmarks.delivery throughput --runs 5   exactly-once and at-least-once, in turns
    … others         a loop that does one after the other, and Quix Streams in both its modes; the same with
                     the worker's batches; and the worker
    … throughput --predict synthetic-20k --cores 0,1     with a model of 20,000 training rows, on both cores
    … latency        open loop at 60 % of the capacity, with and without 1 % of images that take 5 s
    … memory         the worker's resident memory over a long run

Nothing is fetched or decoded (bypass.py); the encoder takes 20 ms for each call of up to 64 images. The
broker (Apache Kafka) has one core, the worker the other. A reader that shows committed records only counts
what has arrived in the topic of tags: a rate is between the arrival of two records, and a latency from the
moment at which an upload was to be sent, whether the sender was late or not.

Quix Streams wants an environment of its own:
    python -m venv .bench/quix && .bench/quix/bin/pip install -r benchmarks/requirements-quix.txt

Prints a JSON line for each figure, then a table. A run in which uploads waited while neither the worker's
processor nor the encoder nor the broker was busy is no result: it is reported, and the exit code is 1. So is
one that stalls, which is made again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import limits
from benchmarks.bypass import SLOW_SECONDS
from benchmarks.common import (
    CACHE,
    FITTED,
    ROOT,
    Figure,
    machine,
    model_folder,
    process_seconds,
    summed_up,
    table,
)
from benchmarks.settings import SETTINGS, for_a_worker

FOLDER = Path(__file__).resolve().parent
QUIX = CACHE / "quix" / "bin" / "python"
PARTITIONS = 8
SLOW_HOSTS = 20
BROKER_CORE, WORKER_CORE = 0, 1
OURS = ("at-least-once", "exactly-once")
ONE_BY_ONE = ("one-by-one", "quix-at-least-once", "quix-exactly-once")
BATCHED = ("batched", "quix-batched-at-least-once", "quix-batched-exactly-once")
OTHERS = (*ONE_BY_ONE, *BATCHED)
COLD_SECONDS = 40.0  # of the load of `latency`, before it is measured
BATCH = 64  # the worker's WORKER_MAX_BATCH, for the others that batch
PATIENCE = 60.0  # seconds without a single new tag, after which a side is taken for broken
LONGEST = 200.0  # seconds of one measurement of a rate: a side that trickles has none


class Stalled(Exception):
    """A side ended, or tagged nothing for a while, although uploads were waiting."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ── the topic of tags, from outside ──────────────────────────────────────────────────────────────────────


class Arrivals:
    """Reads a topic as consumers of exactly-once results do, in a thread, and notes when each id arrived.

    Attributes:
        at: id → the moment of its first arrival (monotonic seconds).
        repeated: records of an id that had arrived before.
    """

    def __init__(self, bootstrap: str, topic: str) -> None:
        from confluent_kafka import Consumer, TopicPartition

        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"arrivals-{topic}",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        self._consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
        self.at: dict[str, float] = {}
        self.repeated = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arrivals", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            messages = self._consumer.consume(1000, 0.02)
            now = time.monotonic()
            for message in messages:
                key = message.key()
                if key is None or message.error() is not None:
                    continue
                name = key.decode()
                if name in self.at:
                    self.repeated += 1
                else:
                    self.at[name] = now

    def wait_for(
        self,
        count: int,
        process: subprocess.Popen[bytes],
        look: Callable[[], None] = lambda: None,
        within: float = math.inf,
    ) -> int:
        """Wait until at least `count` ids have arrived, and `look` every second; → how many had.

        Raises:
            Stalled: the process ended, nothing came for a minute, or not all within so many seconds.
        """
        seen, since = len(self.at), time.monotonic()
        looked = began = since
        while (now := len(self.at)) < count:
            clock = time.monotonic()
            if now > seen:
                seen, since = now, clock
            if process.poll() is not None or clock - since > PATIENCE or clock - began > within:
                raise Stalled(f"{now} of {count} tags came; exit code {process.poll()}: see its log")
            if clock - looked >= 1.0:
                looked = clock
                look()
            time.sleep(0.002)
        return now

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()


# ── one side ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    """What all runs share.

    Attributes:
        broker: its process id.
        settings: of the worker, beside its defaults.
        predict: with the model, which else says "other" of everything at no cost.
        cores: that a side may use, as taskset takes them.
    """

    bootstrap: str
    broker: int
    model: Path
    call_ms: float
    logs: Path
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    predict: bool = False
    cores: str = str(WORKER_CORE)


def command_of(side: str, bench: Bench, run: str) -> tuple[list[str], dict[str, str]]:
    """How a side is started: arguments and environment."""
    call = ["--call-ms", str(bench.call_ms)]
    topics = [bench.bootstrap, f"uploads-{run}", f"tags-{run}"]
    if side in BATCHED:
        call += ["--batch", str(BATCH)]
    if side in ("one-by-one", "batched"):
        return [sys.executable, "-m", "benchmarks.one_by_one", *topics, *call], {}
    if side.startswith("quix-"):
        mode = side.removeprefix("quix-").removeprefix("batched-")
        return [str(QUIX), str(FOLDER / "quix_worker.py"), *topics, mode, *call], {}
    predict = ["--predict"] if bench.predict else []
    environment = {**worker_environment(bench, run, side), **bench.settings}
    return [sys.executable, "-m", "benchmarks.bypass", *call, *predict], environment


def worker_environment(bench: Bench, run: str, delivery: str) -> dict[str, str]:
    """The worker's settings: its defaults, but for where things are."""
    names = {
        f"WORKER_{topic.upper()}_TOPIC": f"{topic}-{run}" for topic in ("uploads", "tags", "retry", "dlq")
    }
    supported = "delivery" in _worker_settings()
    if delivery == "exactly-once" and not supported:
        raise SystemExit("this worker has no WORKER_DELIVERY")
    return names | {
        "WORKER_BOOTSTRAP_SERVERS": bench.bootstrap,
        "WORKER_GROUP_ID": f"bench-{run}",
        "WORKER_MODEL": str(bench.model),
        "WORKER_HTTP": f"127.0.0.1:{_free_port()}",
        **({"WORKER_DELIVERY": delivery} if supported else {}),
    }


def _worker_settings() -> set[str]:
    from worker.settings.settings import Settings

    return {field.name for field in dataclasses.fields(Settings)}


def _free_port() -> int:
    from worker.demo.backends import free_ports

    return free_ports(1)[0]


@contextlib.contextmanager
def started(side: str, bench: Bench, run: str, cores: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A side, running on its core or cores; ended by SIGTERM."""
    command, environment = command_of(side, bench, run)
    pinned = ["taskset", "-c", cores or bench.cores]
    log = bench.logs / f"{run}.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [*pinned, *command],
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def make_topics(bench: Bench, run: str) -> None:
    from worker.demo import backends

    names = [f"{topic}-{run}" for topic in ("uploads", "tags", "retry", "dlq")]
    backends.make_topics(bench.bootstrap, names, PARTITIONS)


def spent(process: subprocess.Popen[bytes]) -> float:
    """Processor seconds of a side so far, without the thread that stands in for its fetchers."""
    seconds = process_seconds(process.pid)
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        with contextlib.suppress(OSError):
            if (task / "comm").read_text().strip() == "bypass":
                seconds -= int((task / "schedstat").read_text().split()[0]) / 1e9
    return seconds


# ── throughput ───────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True)
class Rate:
    """
    Attributes:
        worker, broker: milliseconds of a processor for each upload.
        limit: what was busy most of the time: "processor", "encoder" or "broker".
    """

    per_second: float
    worker: float
    broker: float
    limit: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Account:
    """Seconds so far: by the clock, of a processor, of waiting for one, of the encoder."""

    wall: float
    worker: float
    queued: float
    encoder: float | None
    broker: float

    @classmethod
    def of(cls, process: subprocess.Popen[bytes], bench: Bench) -> _Account:
        encoder = limits.encoder_seconds(process.pid)
        queued = limits.run_queue_seconds(process.pid, "bypass")
        return cls(time.monotonic(), spent(process), queued, encoder, process_seconds(bench.broker))

    def shares(self, later: _Account, cores: int) -> dict[str, float]:
        """Of the time between two accounts; threads that wait for a processor want one, not more of them."""
        wall = later.wall - self.wall
        wanted = min(wall * cores, later.worker - self.worker + later.queued - self.queued)
        found = {"processor": wanted / (wall * cores), "broker": (later.broker - self.broker) / wall}
        if self.encoder is not None and later.encoder is not None:
            found["encoder"] = (later.encoder - self.encoder) / wall
        return found


def preload(bench: Bench, topic: str, count: int) -> None:
    """Put `count` uploads into a topic, in turns to its partitions."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bench.bootstrap, "linger.ms": 50})
    for i in range(count):
        producer.produce(topic, upload(i), key=f"upload-{i}", partition=i % PARTITIONS)
        producer.poll(0)
    producer.flush()


def upload(i: int, *, slow: bool = False) -> bytes:
    host = f"slow-{i // 100 % SLOW_HOSTS}.example" if slow else "pictures.example"
    return json.dumps({"id": f"upload-{i}", "url": f"http://{host}/{i}.jpg"}).encode()


def throughput(side: str, bench: Bench, run: str, warm: int, count: int) -> Rate:
    """Tag `warm` + `count` uploads that wait in their topic; what is measured is the last `count`."""
    make_topics(bench, run)
    preload(bench, f"uploads-{run}", warm + count)
    arrivals = Arrivals(bench.bootstrap, f"tags-{run}")
    try:
        with started(side, bench, run) as process:
            first = arrivals.wait_for(warm, process)
            before = _Account.of(process, bench)
            images = arrivals.wait_for(warm + count, process, within=LONGEST) - first
            after = _Account.of(process, bench)
        if images < 1:
            raise Stalled(f"all {warm + count} tags came at once: measure more uploads")
        if arrivals.repeated:
            say(f"{run}: {arrivals.repeated} tags came twice")
        shares = before.shares(after, bench.cores.count(",") + 1)
        if side in OTHERS:  # they do not count; their batches are full, or it was at work for longer
            calls = images / (BATCH if side in BATCHED else 1)
            shares["encoder"] = calls * bench.call_ms / 1000 / (after.wall - before.wall)
        return Rate(
            images / (after.wall - before.wall),
            1000 * (after.worker - before.worker) / images,
            1000 * (after.broker - before.broker) / images,
            limits.held_back(run, shares, count, ours=side in OURS),
        )
    finally:
        arrivals.close()


def in_turns(
    sides: Sequence[str], bench: Bench, runs: int, warm: dict[str, int], count: dict[str, int]
) -> dict[str, list[Rate]]:
    """Several runs of each side, the order turned round each time; `warm` and `count` are uploads."""
    found: dict[str, list[Rate]] = {side: [] for side in sides}
    for number in range(runs):
        for side in sides if number % 2 == 0 else reversed(sides):
            rate = again_if_stalled(side, bench, warm[side], count[side])
            say(f"{side} {number + 1}/{runs}: {rate}")
            found[side].append(rate)
    return found


def again_if_stalled(side: str, bench: Bench, warm: int, count: int) -> Rate:
    """A run that stalls gives no rate: it is reported, and made again."""
    run = new_run(side)
    try:
        return throughput(side, bench, run, warm, count)
    except Stalled as stalled:
        limits.failures.append(f"{run}: {stalled}")
        print(json.dumps({"stalled": side, "run": run, "how": str(stalled)}), flush=True)
        return throughput(side, bench, new_run(side), warm, count)


def new_run(side: str) -> str:
    return f"{side}-{time.time_ns() // 1_000_000}"


def rates(found: dict[str, list[Rate]]) -> Iterator[Figure]:
    for side, measured in found.items():
        yield summed_up("delivery", f"{side}: throughput", "uploads/s", [r.per_second for r in measured])
        yield summed_up("delivery", f"{side}: CPU of the worker", "ms/upload", [r.worker for r in measured])
        yield summed_up("delivery", f"{side}: CPU of the broker", "ms/upload", [r.broker for r in measured])
        print(json.dumps({"limit": sorted({r.limit for r in measured}), "side": side}), flush=True)
    if all(side in found for side in OURS):
        pairs = list(zip(*(found[side] for side in OURS), strict=True))
        costs = [100 * (1 - exactly.per_second / least.per_second) for least, exactly in pairs]
        yield summed_up("delivery", "exactly-once costs, throughput", "%", costs)
        costs = [100 * (exactly.worker / least.worker - 1) for least, exactly in pairs]
        yield summed_up("delivery", "exactly-once costs, CPU of the worker", "%", costs)


# ── latency ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, slots=True)
class OpenLoop:
    """`latencies` of uploads that are not slow, seconds; `slow`: of the others, beyond their 5 s."""

    per_second: float
    latencies: list[float]
    slow: list[float]
    memory: list[tuple[float, float]]  # seconds since the start, resident MB
    arrived: list[float]  # monotonic seconds, of all uploads


def is_slow(i: int) -> bool:
    """One in a hundred."""
    return i % 100 == 37


def send(
    bootstrap: str, topic: str, first: int, count: int, rate: float, slow: bool, channel: Connection
) -> None:
    """Send upload `first` + i at start + i / `rate`, whatever becomes of the others; in its own process.

    The start comes over the channel, after this has said that it is ready.
    """
    from confluent_kafka import Producer

    os.sched_setaffinity(0, {BROKER_CORE})
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 1})
    producer.list_topics(topic, timeout=30)
    channel.send("ready")
    start = channel.recv()
    sent = 0
    while sent < count:
        due = min(count, int((time.monotonic() - start) * rate) + 1)
        for number in range(first + sent, first + due):
            body = upload(number, slow=slow and is_slow(number))
            producer.produce(topic, body, key=f"upload-{number}", partition=number % PARTITIONS)
        sent = max(sent, due)
        producer.poll(0)
        time.sleep(0.001)
    producer.flush()


def open_loop(
    side: str, bench: Bench, run: str, rate: float, seconds: float, slow: bool,
    begun: Callable[[], None] = lambda: None,
) -> OpenLoop:  # fmt: skip
    """Uploads at a fixed rate for some seconds; all that were sent are waited for.

    Args:
        begun: called when the first of them is sent.
    """
    warm, count = 500, int(rate * seconds)
    make_topics(bench, run)
    preload(bench, f"uploads-{run}", warm)
    arrivals = Arrivals(bench.bootstrap, f"tags-{run}")
    try:
        with started(side, bench, run) as process:
            arrivals.wait_for(warm, process)
            ours, its = Pipe()
            topic = f"uploads-{run}"
            sender = get_context("spawn").Process(
                target=send, args=(bench.bootstrap, topic, warm, count, rate, slow, its)
            )
            sender.start()
            ours.recv()
            start = time.monotonic() + 0.1
            ours.send(start)
            begun()
            memory: list[tuple[float, float]] = []
            arrivals.wait_for(
                warm + count,
                process,
                lambda: memory.append((time.monotonic() - start, resident(process))),
            )
            sender.join()
    finally:
        arrivals.close()
    delays = {i: arrivals.at[f"upload-{warm + i}"] - (start + i / rate) for i in range(count)}
    late = [i for i in delays if slow and is_slow(warm + i)]
    fast = [delay for i, delay in delays.items() if not (slow and is_slow(warm + i))]
    last = max(arrivals.at[f"upload-{warm + i}"] for i in range(count) if not (slow and is_slow(warm + i)))
    arrived = [arrivals.at[f"upload-{warm + i}"] for i in range(count)]
    beyond = [delays[i] - SLOW_SECONDS for i in late]
    return OpenLoop(len(fast) / (last - start), fast, beyond, memory, arrived)


def resident(process: subprocess.Popen[bytes]) -> float:
    """MB of memory that a process has."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def latency(side: str, bench: Bench, rate: float, seconds: float) -> Iterator[Figure]:
    """The same load twice: all images quick, and one in a hundred slow.

    Before, a stretch that is not counted: a broker takes a minute of one record a request until its code for
    that is compiled, and falls behind from about 1,000/s on meanwhile.
    """
    open_loop(side, bench, new_run(f"{side}-warm"), rate, COLD_SECONDS, slow=False)
    found = {}
    for name, slow in (("quick", False), ("1 % slow", True)):
        found[name] = open_loop(side, bench, new_run(f"{side}-latency"), rate, seconds, slow)
        latencies = found[name].latencies
        say(f"{side}, {name}: p50 {percentile(latencies, 0.5):.3f} p99 {percentile(latencies, 0.99):.3f} s")
        for label, share in (("median", 0.5), ("99th percentile", 0.99), ("99.9th percentile", 0.999)):
            value = 1000 * percentile(latencies, share)
            yield Figure("delivery", f"{side}, {name}, {rate:.0f}/s: {label} of the quick", "ms", value)
        yield Figure(
            "delivery", f"{side}, {name}: throughput of the quick", "uploads/s", found[name].per_second
        )
    beyond = 1000 * statistics.median(found["1 % slow"].slow)
    yield Figure("delivery", f"{side}: median of the slow beyond their 5 s", "ms", beyond)
    # of what was sent, 1 % is slow and counted apart: compared is what came of the rest
    share = found["1 % slow"].per_second / (0.99 * found["quick"].per_second)
    yield Figure("delivery", f"{side}: throughput lost to the slow", "%", 100 * (1 - share))


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────


def memory(side: str, bench: Bench, rate: float, seconds: float) -> Iterator[Figure]:
    """Resident memory while uploads come at a steady rate, after a first fifth in which caches fill."""
    import numpy as np

    found = open_loop(side, bench, new_run(f"{side}-memory"), rate, seconds, slow=True)
    settled = np.array([sample for sample in found.memory if sample[0] > seconds / 5])
    slope, _ = np.polyfit(settled[:, 0], settled[:, 1], 1)
    uploads = len(found.latencies) + len(found.slow)
    sizes = settled[:, 1].tolist()
    yield summed_up("delivery", f"{side}: resident memory over {uploads} uploads", "MB", sizes)
    yield Figure("delivery", f"{side}: slope of memory", "MB per million uploads", float(slope / rate * 1e6))


# ── the runs ─────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def surroundings(call_ms: float, setting: str = "", cores: str = str(WORKER_CORE)) -> Iterator[Bench]:
    """The broker, on its core, with all that this process does besides.

    Args:
        setting: of the model that predicts; none when empty.
    """
    from worker.demo.backends import JavaKafka

    home = os.environ.get("KAFKA_HOME")
    if not home:
        raise SystemExit("set KAFKA_HOME to a folder whose libs/ holds Apache Kafka 4 (with Java 17)")
    model = for_a_worker(setting, FITTED) if setting else model_folder()
    logs = CACHE / "delivery-logs"
    logs.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, {BROKER_CORE})
    with JavaKafka(Path(home).resolve()) as kafka:
        assert kafka.process is not None
        yield Bench(
            kafka.bootstrap, kafka.process.pid, model, call_ms, logs, predict=bool(setting), cores=cores
        )


def uploads_of(
    others: Sequence[str], arguments: argparse.Namespace, bench: Bench
) -> tuple[dict[str, int], dict[str, int]]:
    """How many uploads warm up each side and the worker, and how many are measured: of those that do one
    after the other, what the encoder does in 15 s."""
    slow = arguments.others or int(min(arguments.uploads, 15_000 / max(1.0, bench.call_ms)))
    few = [side for side in others if side in ONE_BY_ONE]
    sides = dict.fromkeys([*others, OURS[1]])
    return (
        {side: 50 if side in few else arguments.warm for side in sides},
        {side: slow if side in few else arguments.uploads for side in sides},
    )


def figures(arguments: argparse.Namespace, bench: Bench) -> Iterator[Figure]:
    part, warm = arguments.part, arguments.warm
    capacity = arguments.capacity
    if part in (None, "throughput"):
        for side in OURS:  # until the broker's JIT is warm
            again_if_stalled(side, bench, warm, arguments.uploads)
        counts = dict.fromkeys(OURS, arguments.uploads)
        found = in_turns(OURS, bench, arguments.runs, dict.fromkeys(OURS, warm), counts)
        yield from rates(found)
        capacity = capacity or statistics.median(rate.per_second for rate in found[OURS[1]])
    if part in (None, "others"):
        there = [side for side in OTHERS if QUIX.exists() or not side.startswith("quix")]
        if len(there) < len(OTHERS):
            say(f"Quix Streams is left out: {QUIX} is not there, see --help")
        found = in_turns([*there, OURS[1]], bench, arguments.runs, *uploads_of(there, arguments, bench))
        yield from rates(found)
    if part in ("latency", "memory") and not capacity:
        capacity = throughput(OURS[1], bench, new_run("capacity"), warm, arguments.uploads).per_second
    if part in (None, "latency"):
        for side in [arguments.side] if arguments.side else OURS:
            yield from latency(side, bench, 0.6 * capacity, arguments.seconds)
    if part in (None, "memory"):
        yield from memory(OURS[1], bench, 0.6 * capacity, arguments.long)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=("throughput", "others", "latency", "memory"))
    parser.add_argument("--runs", type=int, default=1, help="of each side, in turns (%(default)s)")
    parser.add_argument("--uploads", type=int, default=20_000, help="in one measurement (%(default)s)")
    parser.add_argument("--warm", type=int, default=3_000, help="uploads before it (%(default)s)")
    parser.add_argument("--others", type=int, help="uploads for the other ways (by --call-ms: about 15 s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each open loop (%(default)s)")
    parser.add_argument("--long", type=float, default=300.0, help="seconds of the long run (%(default)s)")
    parser.add_argument("--call-ms", type=float, default=20.0, help="of the encoder (%(default)s)")
    parser.add_argument(
        "--predict", choices=sorted(SETTINGS), default="", metavar="SETTING",
        help="with the model of this setting (fitted once, and kept): " + ", ".join(sorted(SETTINGS)),
    )  # fmt: skip
    parser.add_argument("--cores", default=str(WORKER_CORE), help="of a side (%(default)s)")
    parser.add_argument("--side", choices=OURS, help="of `latency`; else both")
    parser.add_argument("--capacity", type=float, help="uploads/s, for open loops; else it is measured")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # broker and sides are stopped on the way out
    print(json.dumps(machine()), flush=True)
    lines = []
    with surroundings(arguments.call_ms, arguments.predict, arguments.cores) as bench:
        for figure in figures(arguments, bench):
            print(figure.line(), flush=True)
            lines.append(json.loads(figure.line()))
    print(table(lines))
    limits.end()


if __name__ == "__main__":
    main()
