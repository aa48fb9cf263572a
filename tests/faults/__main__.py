"""Breaks everything that a worker rests on, and checks the history of every upload.

    python -m tests.faults                      the short form, about 4 minutes
    python -m tests.faults --soak               100,000 uploads, more than 100 kills; half an hour
    python -m tests.faults --seed 7 --uploads 2000 --kills 5 --rebalances 2
    python -m tests.faults --control no-superseding

Needs KAFKA_HOME (a folder whose libs/ holds Apache Kafka 4), Java 17 and a redis-server. Prints what it does,
and at the end how all uploads ended; the exit code is 0 when nothing is duplicated, lost, out of order or
wrong.

A control runs with one promise broken on purpose, and the exit code is 0 when the checker notices.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path

from tests.faults.breaking import FAILPOINTS, Plan
from tests.faults.run import Options, RunOutcome, run
from tests.faults.sabotage import CONTROLS, caught, control

SHORT = Plan(
    failpoint_kills=1, failpoint_freezes=1, freeze_at=("after-committed-read", "before-commit"), kills=10,
    freezes=1, rebalances=5, fetchers=2, broker_restarts=1, broker_freezes=1, redis=1, images=1,
    starts_without_broker=1, partitions=1, cuts=1,
)  # fmt: skip
SOAK = Plan(
    failpoint_kills=10, failpoint_freezes=1, kills=30, freezes=5, rebalances=25, fetchers=10,
    broker_restarts=4, broker_freezes=3, redis=3, images=5, starts_without_broker=3, partitions=3, cuts=3,
    topics_anew=3, rights=2,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--soak", action="store_true", help="the long form")
    parser.add_argument("--control", choices=CONTROLS, help="break a promise; the checker must notice")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of events and faults")
    parser.add_argument("--uploads", type=int, help="how many events (5,000; 100,000 with --soak)")
    parser.add_argument("--rate", type=float, help="events sent in a second at most")
    parser.add_argument("--protocol", choices=("classic", "consumer"), default="classic", help="of the group")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the workers' logs there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there too")
    faults = parser.add_argument_group("how often each fault comes (given one, the others are left out)")
    numbers = [field.name for field in dataclasses.fields(Plan) if not field.name.endswith("_at")]
    for name in numbers:
        faults.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N")
    parser.add_argument("--at", action="append", choices=FAILPOINTS, help="only this failpoint (repeatable)")
    args = parser.parse_args()
    home = os.environ.get("KAFKA_HOME")
    if not home:
        parser.error("set KAFKA_HOME to a folder whose libs/ holds Apache Kafka 4")
    chosen = {name: n for name in numbers if (n := getattr(args, name)) is not None}
    plan = Plan(**chosen) if chosen else SOAK if args.soak else SHORT
    if args.at:
        plan = dataclasses.replace(plan, kill_at=tuple(args.at), freeze_at=tuple(args.at))
    options = Options(
        args.uploads or (100_000 if args.soak else 5_000),
        args.seed,
        plan,
        args.rate or 250.0,
        {"WORKER_GROUP_PROTOCOL": args.protocol},
        args.keep,
    )
    if args.control:
        options = control(args.control, options, chosen=bool(chosen))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended on the way out
    print(f"seed {options.seed}, {options.uploads:,} uploads, {args.protocol} group", flush=True)
    outcome = run(Path(home).resolve(), options, lambda text: print(text, flush=True))
    print(outcome.text(), flush=True)
    if args.json:
        args.json.write_text(json.dumps(_figures(options, outcome), indent=1))
    if args.control:
        found = caught(args.control, outcome)
        print(f"control {args.control}: {'caught, as it should be' if found else 'NOT CAUGHT'}")
        return 0 if found else 1
    return 0 if outcome.ok else 1


def _figures(options: Options, outcome: RunOutcome) -> dict[str, object]:
    counts = {f.name: getattr(outcome.report, f.name) for f in dataclasses.fields(outcome.report)}
    del counts["findings"]
    return {
        "seed": options.seed,
        **counts,
        "faults": dict(outcome.faults),
        "troubles": outcome.troubles,
        "crashes": outcome.crashes,
        "stalls": outcome.stalls,
        "seconds": round(outcome.seconds),
    }


if __name__ == "__main__":
    sys.exit(main())
