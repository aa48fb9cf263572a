"""The short form: every failpoint, ten kills, ten rebalances, all that a worker rests on broken once, 5,000
uploads; and a control, which must be caught. `python -m tests.faults --help` has the long form."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.demo.backends import find_java

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.kafka]


def faults(*arguments: str, seconds: float) -> str:
    """Run the harness as a program; what it says."""
    if not os.environ.get("KAFKA_HOME") or not find_java():
        pytest.skip("needs a broker that it may kill: set KAFKA_HOME (with Java 17 installed)")
    command = [sys.executable, "-m", "tests.faults", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_nothing_is_lost_repeated_or_out_of_order() -> None:
    """Whatever is killed, frozen, filled or restarted: each upload ends exactly once, and as its last event
    says."""
    said = faults("--seed", "1", "--protocol", "consumer", seconds=900)
    for count in ("duplicates", "lost", "out of order", "wrong"):
        assert f"{count:<13}{0:>9}" in said


def test_a_broken_promise_is_caught() -> None:
    """Under at-least-once delivery, a worker that dies between publishing and committing has its results
    published twice, and the checker says so; nothing is lost."""
    assert "caught" in faults("--control", "at-least-once", "--seed", "1", "--uploads", "1000", seconds=900)
