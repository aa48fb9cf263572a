"""All benchmarks that take minutes, one after the other: `python -m benchmarks`, or `make bench`.

    make bench                       the quick set: stages, fetching, the worker from end to end
    make bench ARGS="--runs 5"       the same, with five runs of each side
    make bench ARGS=predict          one script of this folder; `--help` of each says what else it takes

The worker needs KAFKA_HOME (a folder whose libs/ holds Apache Kafka 4) and Java 17; without them that part is
left out, and the output says so. Prints every script's JSON lines, then one table of all figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.common import table

QUICK = ("stages", "fetch", "end_to_end")
SLOW = (
    "clipart",
    "steadiness",
    "curves",
    "delivery",
    "drift",
    "fidelity",
    "gpu",
    "hostile",
    "models",
    "predict",
    "reports",
    "restore",
    "retag",
    "scale",
    "serve",
    "storage",
)


def lines_of(script: str, arguments: list[str]) -> Iterator[dict[str, Any]]:
    """Run a script and pass on its JSON lines, printed as they come.

    Raises:
        SystemExit: with the script's exit code, when it fails.
    """
    command = [sys.executable, "-m", f"benchmarks.{script}", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                print(line, end="", flush=True)
                yield json.loads(line)
    if process.returncode:
        print(f"benchmarks.{script} failed with exit code {process.returncode}", file=sys.stderr)
        raise SystemExit(process.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=", ".join(QUICK + SLOW))
    parser.add_argument("--runs", type=int, default=1, help="of each side, in turns (%(default)s)")
    arguments = parser.parse_args()
    if unknown := set(arguments.scripts) - {*QUICK, *SLOW}:
        parser.error(f"no such script: {', '.join(sorted(unknown))}; there are {', '.join(QUICK + SLOW)}")
    lines: list[dict[str, Any]] = []
    for script in arguments.scripts or QUICK:
        if script == "end_to_end" and not os.environ.get("KAFKA_HOME"):
            print("end_to_end is left out: it needs KAFKA_HOME and Java 17", file=sys.stderr)
            continue
        lines += lines_of(script, ["--runs", str(arguments.runs)] if script in QUICK else [])
    figures = [line for line in lines if "figure" in line]
    if figures:
        print(table(figures))


if __name__ == "__main__":
    main()
