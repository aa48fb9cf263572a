"""One run: feed, break, repair, wait until all is decided, check."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from tests.faults.breaking import Breaker, Plan, schedule
from tests.faults.checker import History, Verdict, check
from tests.faults.feeding import Feeder
from tests.faults.reading import Reader
from tests.faults.surroundings import EXIT_START, PARTITIONS, Surroundings, Worker, surroundings
from tests.faults.uploads import plan as uploads_plan
from worker.errors import WorkerError

FLEET = 2  # workers that are always there; faults bring a third and a fourth
STUCK = 240.0  # seconds without any progress after the last fault
VIEW = 240.0  # seconds until the view shows it
# librdkafka itself may crash after a broker was frozen (its issue #5280); the rest must not notice
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT}
EXIT_STALLED = 4

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What a run is given; the same options make the same events and the same faults in the same order."""

    uploads: int
    seed: int
    plan: Plan
    rate: float = 250.0
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    keep: Path | None = None  # a folder for logs; a temporary one, kept only on failure, when left out


@dataclasses.dataclass(frozen=True, slots=True)
class RunOutcome:
    """What a run found.

    Attributes:
        faults: how often each thing was done.
        troubles: what went wrong with the workers themselves.
        crashes: workers that ended by a crash of the client library, and were replaced.
        stalls: workers whose call to the client library did not return, which their watchdog ended.
    """

    report: Verdict
    faults: Counter[str]
    troubles: list[str]
    crashes: int
    stalls: int
    seconds: float
    folder: Path

    @property
    def ok(self) -> bool:
        return self.report.ok and not self.troubles

    def text(self, shown: int = 20) -> str:
        lines = self.report.lines()
        lines.append(f"faults       {sum(self.faults.values()):>9,}")
        lines += [f"    {count:>4} × {name}" for name, count in sorted(self.faults.items())]
        if self.crashes:
            lines.append(f"crashes of the Kafka client, replaced: {self.crashes}")
        if self.stalls:
            lines.append(
                f"calls of the Kafka client that did not return, ended by the watchdog: {self.stalls}"
            )
        lines += [f"{finding.kind}: {finding.text}" for finding in self.report.findings[:shown]]
        if len(self.report.findings) > shown:
            lines.append(f"… and {len(self.report.findings) - shown} more findings")
        lines += [f"trouble: {trouble}" for trouble in self.troubles]
        lines.append(f"{'all is right' if self.ok else 'WRONG'}, {self.seconds:.0f} s")
        return "\n".join(lines)


def run(home: Path, options: Options, say: Say) -> RunOutcome:
    """Run, and check.

    Args:
        home: of Apache Kafka.
        say: is told what happens.
    """
    folder = options.keep or Path(tempfile.mkdtemp(prefix="imgclust-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()

    def timed(text: str) -> None:
        say(f"[{time.monotonic() - started:7.1f}] {text}")

    name = f"{options.seed}-{int(time.time())}"
    guarded = options.plan.rights > 0
    with surroundings(home, folder, name, dict(options.env), timed, guarded=guarded) as parts:
        outcome = _run(parts, options, timed, started)
    if outcome.ok and options.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        shutil.rmtree(folder / "kafka", ignore_errors=True)
        timed(f"the workers' logs are in {folder}")
    return outcome


def _run(parts: Surroundings, options: Options, say: Say, started: float) -> RunOutcome:
    dice = random.Random(options.seed)
    steps = schedule(options.plan, dice)
    planned = uploads_plan(
        options.seed, options.uploads, PARTITIONS, parts.images.address, outages=options.plan.outages
    )
    feeder = Feeder(parts.broker.bootstrap, parts.topics.uploads, planned, options.rate)
    reader = Reader(parts)
    breaker = Breaker(parts, dice, say, feeder.grant, partial(_make_anew, parts, reader, feeder, say))
    troubles: list[str] = []
    for _ in range(FLEET):
        parts.join()
    for worker in parts.workers:
        parts.wait_ready(worker)
    share = options.uploads // (len(steps) + 1)
    breaker.spare = options.uploads - share * len(steps)
    for number, (what, do) in enumerate(steps, 1):
        breaker.share = share
        say(f"{number}/{len(steps)} {what}; {len(feeder.events):,} sent, {len(parts.workers)} workers")
        do(breaker)
        breaker.feed()
        parts.watch()
        while len(parts.workers) < FLEET:
            parts.join()
    feeder.grant(breaker.spare)
    feeder.finish(options.uploads, options.uploads / options.rate + STUCK)
    say(f"all {len(feeder.events):,} are sent; waiting until all are decided")
    if left := _settle(parts, reader, say):
        troubles.append(f"nothing more was decided for {STUCK:g} s after the last fault: {left}")
    results = reader.results()
    history = reader.history(feeder.events, results=results)
    deadline = time.monotonic() + VIEW
    while any("the view" in f.text for f in check(history).findings) and time.monotonic() < deadline:
        time.sleep(1)
        history = dataclasses.replace(history, view=reader.view())
    for worker in list(parts.workers):
        parts.leave(worker)
    # once more, with nobody left who could still write
    history = dataclasses.replace(history, results=reader.results(), pending=reader.pending())
    report = check(history)
    if not report.ok:
        _write(history, parts.folder / "history.jsonl")
    crashes = [worker for worker in parts.ended if worker.expected is None and worker.code in CRASHES]
    # one that was started while the broker was away says so and ends; an orchestrator starts it again
    stalls = [worker for worker in parts.ended if options.plan.breaks_broker and _hung(worker)]
    refused = [worker for worker in parts.ended if worker.expected is None and worker.code == EXIT_START]
    excused = [*crashes, *stalls, *refused]
    troubles += [_trouble(w) for w in parts.ended if w not in excused and w.code not in (w.expected or ())]
    if left := reader.abandoned():
        troubles.append(f"all left in order, but the offsets of partitions {left} do not say so")
    troubles += [f"{name}: not reached ({count} times)" for name, count in Counter(breaker.missed).items()]
    return RunOutcome(
        report, breaker.done, troubles, len(crashes), len(stalls), time.monotonic() - started, parts.folder
    )


def _make_anew(parts: Surroundings, reader: Reader, feeder: Feeder, say: Say, stopped: bool) -> bool:
    """The topics of uploads and retries are made anew when all in them has ended, so that nothing may be lost
    with them; whether the group's offsets are of the new one then."""
    deadline = time.monotonic() + STUCK
    while not feeder.has_sent_all() and time.monotonic() < deadline:
        time.sleep(0.1)
    if not feeder.has_sent_all() or _settle(parts, reader, say):
        return False
    for worker in list(parts.workers) if stopped else ():
        parts.leave(worker)
    reader.begin_anew()
    made = parts.broker.make_anew()
    feeder.begin_anew()
    while len(parts.workers) < FLEET:
        parts.join()
    while reader.topics_committed() != {made} and time.monotonic() < deadline + STUCK:
        parts.watch()
        time.sleep(0.5)
    return reader.topics_committed() == {made}


def _settle(parts: Surroundings, reader: Reader, say: Say) -> str:
    """Wait until every upload is decided; what is left when nothing moves any more."""
    moved, before, told = time.monotonic(), "", 0.0
    while time.monotonic() < moved + STUCK:
        parts.watch()
        try:
            behind, pending = reader.behind(), reader.pending()
        except WorkerError as error:
            say(str(error))
            continue
        if not (behind or pending):
            return ""
        left = f"{sum(behind.values()):,} behind in partitions {sorted(behind)}, {len(pending)} pending"
        if left != before:
            moved, before = time.monotonic(), left
        if time.monotonic() > told:
            told = time.monotonic() + 5
            say(left)
        time.sleep(0.5)
    return before


def _write(history: History, path: Path) -> None:
    """What the checker saw, a line for each event and result, to look a finding up in."""
    with path.open("w") as lines:
        for item in (*history.events, *history.results):
            fields = {
                **dataclasses.asdict(item),
                "what": type(item).__name__,
                "kind": getattr(item, "kind", ""),
            }
            lines.write(json.dumps(fields, default=_plain) + "\n")


def _plain(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(value)
    return value.decode() if isinstance(value, bytes) else str(value)


def _hung(worker: Worker) -> bool:
    """Whether its watchdog ended it in a call for a transaction. Seen after a broker was killed:
    `send_offsets_to_transaction` of librdkafka, given one second, had not returned after 120."""
    if worker.expected is not None or worker.code != EXIT_STALLED:
        return False
    loop = worker.log.read_text(errors="replace").rpartition("(most recent call first):")[2]
    return "worker/kafka/exactly_once.py" in loop.splitlines()[1]


def _trouble(worker: Worker) -> str:
    last = worker.log.read_text(errors="replace").splitlines()[-4:]
    return f"worker {worker.number} ended with {worker.code}:\n    " + "\n    ".join(
        line[:400] for line in last
    )
