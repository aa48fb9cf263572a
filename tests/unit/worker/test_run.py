"""worker.run: on every way out something ends the process, should a client not close."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from worker import run
from worker.errors import KafkaAway, StartError, WorkerError
from worker.settings.load import load
from worker.signals import Signals
from worker.telemetry.health import Health

SETTINGS = load({"WORKER_HTTP": "127.0.0.1:0"})


class Way:
    """What happened on the way out, in order."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def note(self, step: str) -> None:
        self.steps.append(step)


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Way:
    made = Way()
    monkeypatch.setattr(run, "leave_in_time", lambda code: made.note(f"ends with {code}"))
    monkeypatch.setattr(run, "when_kafka_answers", lambda settings, signals, health, start: start())
    monkeypatch.setattr(run, "load", lambda settings: ("model", "encoder"))
    monkeypatch.setattr(run, "spare_collector", lambda: None)
    return made


class FakeTagger:
    def __init__(self, way: Way, round_: Callable[[], None]) -> None:
        self._way, self.run_once = way, round_

    def start(self) -> None:
        self._way.note("starts")

    def drain(self, hurry: object) -> bool:
        self._way.note("drains")
        return True

    def stop(self, *, leave_group: bool) -> None:
        self._way.note("closes")


def fail() -> None:
    raise RuntimeError("boom")


def test_a_tagger_that_failed_ends(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clients may not close: the process ends all the same, with exit code 1."""
    monkeypatch.setattr(run, "make_tagger", lambda *_: FakeTagger(way, fail))
    with pytest.raises(RuntimeError, match="boom"):
        run.run(SETTINGS, view=False)
    assert way.steps == ["starts", "ends with 1", "closes"]


def test_a_tagger_that_was_stopped_ends(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a signal it drains, and what closes then has its time."""

    class Stopped(Signals):
        def __init__(self) -> None:
            super().__init__()
            self.stop.set()

    monkeypatch.setattr(run, "Signals", Stopped)
    monkeypatch.setattr(run, "make_tagger", lambda *_: FakeTagger(way, fail))
    assert run.run(SETTINGS, view=False) == 0
    assert way.steps == ["starts", "drains", "ends with 0", "closes"]


class FakeView:
    """A view that ends by itself, or when it is told."""

    def __init__(self, way: Way, error: Exception | None) -> None:
        self._way, self._error = way, error

    def run(self, stop: threading.Event) -> None:
        if self._error is not None:
            raise self._error
        stop.wait()
        self._way.note("closes")

    def rebuild(self) -> None:
        self._way.note("rebuilds")


@pytest.mark.parametrize("error", [None, WorkerError("fatal")])
def test_a_view_ends(way: Way, monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    """Stopped: it closes after something waits for it; failed: its error is the command's."""

    class Later(Signals):
        def __init__(self) -> None:
            super().__init__()
            if error is None:
                self.stop.set()

    monkeypatch.setattr(run, "Signals", Later)
    monkeypatch.setattr(run, "view_of", lambda *_: FakeView(way, error))
    if error is None:
        assert run.run_view(SETTINGS, rebuild=True) == 0
        assert way.steps == ["rebuilds", "ends with 0", "closes"]
    else:
        with pytest.raises(WorkerError, match="fatal"):
            run.run_view(SETTINGS)
        assert way.steps == ["ends with 1"]


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What topics.ensure does, time after time: an error to raise, or None."""
    answers: list[Any] = []

    def ensure(_: object) -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    def answered(_: object, keep_waiting: Callable[[], bool]) -> bool:
        return keep_waiting()

    monkeypatch.setattr(run.topics, "ensure", ensure)
    monkeypatch.setattr(run.topics, "await_kafka", answered)
    return answers


def test_a_start_waits_again_when_kafka_goes_away_in_the_middle(broker: list[Any]) -> None:
    """However often; what is missing for another reason ends it."""
    health = Health()
    broker += [KafkaAway("gone"), KafkaAway("gone again"), None]
    assert run.when_kafka_answers(SETTINGS, Signals(), health, lambda: "started") == "started"
    assert health.ready()[0]
    assert health.alive()[1]["loops"] == {}
    broker.append(StartError("no topic"))
    with pytest.raises(StartError, match="no topic"):
        run.when_kafka_answers(SETTINGS, Signals(), health, lambda: "started")


def test_a_signal_ends_the_wait_for_kafka(broker: list[Any]) -> None:
    """Nothing is started, and the worker is not ready."""
    signals, health = Signals(), Health()
    signals.stop.set()
    assert run.when_kafka_answers(SETTINGS, signals, health, lambda: "started") is None
    assert not health.ready()[0]


def test_a_view_loads_no_torch() -> None:
    """It predicts nothing: that is two seconds and a quarter of a gigabyte of each of its processes."""
    code = "import sys, worker.run; print(sorted({'torch', 'sklearn', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
