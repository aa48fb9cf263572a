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
