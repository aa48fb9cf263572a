"""A fault that meets nothing is no fault: the run says so, and fails."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

import tests.faults.breaking as breaking
from tests.faults.breaking import Breaker


def breaker(**worker: Any) -> Breaker:
    """One worker, with these parts, and a log in which nothing is done yet."""
    parts: Any = SimpleNamespace(
        watch=lambda: None, workers=[SimpleNamespace(**worker)], wait_ready=lambda _: True,
        broker=SimpleNamespace(cut_log=lambda: False), kill=lambda _: None, join=lambda: None,
    )  # fmt: skip
    return Breaker(parts, random.Random(1), say=print, grant=lambda _: None, anew=lambda _: True)


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaking, "PATIENCE", 0.0)


def test_no_fetcher_is_found() -> None:
    """It is no kill, and it is reported."""
    made = breaker(fetchers=list)
    made.kill_fetcher()
    assert made.missed == ["a fetcher to kill"]
    assert not made.done


def test_nothing_is_cut() -> None:
    """The same of a log whose start could not be moved."""
    made = breaker()
    made.cut_log()
    assert made.missed == ["something to cut from the log"]
    assert not made.done


def test_a_failpoint_that_is_not_reached_is_tried_with_more_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second worker has something to do, out of what is sent at the end, and no upload is sent twice."""
    granted: list[int] = []

    def try_once(self: Breaker, name: str, action: str) -> bool:
        granted.append(self.share)
        self.feed()
        return len(granted) == 2

    monkeypatch.setattr(Breaker, "_failpoint", try_once)
    made = breaker()
    made.share, made.spare = 10, 40
    made.failpoint("before-commit", "kill")
    assert granted == [10, 20]
    assert made.spare == 20
    assert not made.missed


def test_a_failpoint_that_is_never_reached_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers tried."""
    monkeypatch.setattr(Breaker, "_failpoint", lambda *_: False)
    made = breaker()
    made.failpoint("before-commit", "kill")
    assert made.missed == ["before-commit"]
