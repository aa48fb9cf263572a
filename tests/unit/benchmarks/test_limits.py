"""benchmarks.limits: a rate that nothing was busy with is no result."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import delivery, limits
from benchmarks.limits import Idle, busy_encoding, encoder_seconds, limit, run_queue_seconds
from tests.support.paths import ROOT
from worker.telemetry.health import Health, HealthServer
from worker.telemetry.metrics import Metrics


def test_the_busiest_part_is_the_limit() -> None:
    """By its share of the time."""
    assert limit({"processor": 0.9, "encoder": 0.4, "broker": 0.7}, 100) == "processor"
    assert limit({"processor": 0.3, "encoder": 0.95, "broker": 0.7}, 100) == "encoder"


def test_a_pause_is_no_result() -> None:
    """The measurement that was believed for weeks: 4 % of a core, and thousands of uploads waiting. Every
    part is named with its share. With nothing waiting the same is a quiet hour."""
    shares = {"processor": 0.04, "broker": 0.12, "encoder": 0.45}
    with pytest.raises(Idle, match=r"5000 uploads waited.*processor 4 %, broker 12 %, encoder 45 %"):
        limit(shares, 5000)
    assert limit(shares, 0) == "encoder"


def test_busy_seconds_are_read_as_the_worker_writes_them() -> None:
    """From the text of its metrics."""
    from prometheus_client import generate_latest

    metrics = Metrics()
    assert busy_encoding("") == 0
    metrics.busy_seconds["encode"].inc(1.25)
    metrics.busy_seconds["predict"].inc(7)
    assert busy_encoding(generate_latest(metrics.registry).decode()) == 1.25


@contextlib.contextmanager
def process_with(environment: dict[str, str]) -> Iterator[int]:
    """One that waits for the end of its input; it has its environment once it says something."""
    command = [sys.executable, "-S", "-c", "input(1)"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"1"
        yield process.pid
        process.communicate(b"\n")


def test_a_worker_is_asked_where_its_environment_says() -> None:
    """Its metrics stand at WORKER_HTTP; a side that has no such address is no worker."""
    metrics = Metrics()
    metrics.busy_seconds["encode"].inc(2.5)
    with (
        HealthServer("127.0.0.1", 0, metrics.registry, Health(conditions=())) as server,
        process_with({"WORKER_HTTP": "{}:{}".format(*server.address)}) as pid,
    ):
        assert encoder_seconds(pid) == 2.5
    with process_with({}) as pid:
        assert encoder_seconds(pid) is None


def test_threads_may_be_left_out_by_name() -> None:
    """The one that stands in for the fetchers is none of the worker's."""
    name = Path("/proc/self/comm").read_text().strip()
    assert run_queue_seconds(os.getpid()) > run_queue_seconds(os.getpid(), name)


def test_shares_count_what_waited_for_a_processor() -> None:
    """On a busy machine a worker that is ready to run all the time is limited by the processor, though it
    got little of it; several threads that wait at once want no more than there is."""
    before = delivery._Account(wall=10.0, worker=1.0, queued=0.0, encoder=2.0, broker=5.0)
    after = delivery._Account(wall=20.0, worker=3.0, queued=30.0, encoder=4.5, broker=9.0)
    assert before.shares(after, 1) == {"processor": 1.0, "broker": 0.4, "encoder": 0.25}
    assert before.shares(after, 4)["processor"] == pytest.approx(0.8)


def test_results_say_what_held_their_rates_back() -> None:
    """Each table of rates in RESULTS.md has a column for it, or stands in a part that says it in words."""
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    for part in re.split(r"^##+ ", text, flags=re.MULTILINE)[1:]:
        heads = re.findall(r"^(\|.*)\n\|[-|]+$", part, re.MULTILINE)
        rates = [head for head in heads if re.search(r"(images|uploads|tags|answers)/s", head)]
        assert not rates or "limit" in part.lower(), f"{part.splitlines()[0]}: {rates[0]}"


def test_a_run_without_a_limit_fails_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is reported at once, and remembered for the exit code; not so a side written to wait."""
    monkeypatch.setattr(limits, "failures", [])
    assert limits.held_back("run-1", {"processor": 0.9, "encoder": 0.1}, 10) == "processor"
    assert limits.held_back("quix-1", {"processor": 0.1}, 10, ours=False) == limits.OWN_WAITS
    assert limits.held_back("quix-2", {"encoder": 0.9}, 10, ours=False) == "encoder"
    limits.end()
    assert limits.held_back("run-2", {"processor": 0.1, "encoder": 0.1}, 10) == "none found"
    assert '"idle": "run-2"' in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"run-2: 10 uploads waited"):
        limits.end()


def test_the_machine_is_busy_with_whoever_has_its_cores() -> None:
    """From /proc/stat: all but idling and waiting for disks. Of several encoders, the mean."""
    stat = "cpu  100 20 30 1000 500 4 6 40 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n"
    assert limits.busy_seconds(stat) == 200 / os.sysconf("SC_CLK_TCK")
    before = limits.Moment(wall=10.0, busy=5.0, encoder=1.0)
    after = limits.Moment(wall=20.0, busy=5.0 + 7.0 * (os.cpu_count() or 1), encoder=17.0)
    assert before.shares(after, encoders=4) == pytest.approx({"processor": 0.7, "encoder": 0.4})


RATES = ("delivery", "end_to_end", "hostile", "scale")


@pytest.mark.parametrize("name", RATES)
def test_every_benchmark_of_a_workers_rate_judges_its_runs(name: str) -> None:
    """And ends with exit code 1 where one had no limit."""
    text = (ROOT / "benchmarks" / f"{name}.py").read_text()
    assert "limits.held_back(" in text
    assert text.rstrip().endswith('limits.end()\n\n\nif __name__ == "__main__":\n    main()')


def test_no_other_benchmark_measures_a_workers_rate() -> None:
    """What starts a worker on uploads that wait is judged; the others are given their load."""
    given = {"models", "gpu", "drift", "restore", "storage"}
    starts = re.compile(r"make_tagger\(|started\(SIDE|\bstarted\(side")
    found = {file.stem for file in (ROOT / "benchmarks").glob("*.py") if starts.search(file.read_text())}
    assert found - given - {"sides"} <= set(RATES)
