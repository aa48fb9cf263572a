"""A failpoint acts where a variable says so, and nowhere else."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from worker.kafka import failpoints
from worker.kafka.failpoints import VARIABLE, reach


@pytest.fixture(autouse=True)
def unread() -> Iterator[None]:
    """Neither this test nor the next one finds what another has read."""
    failpoints._armed.cache_clear()
    yield
    failpoints._armed.cache_clear()


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: sent.append(number))
    return sent


def test_it_is_armed_after_the_module_was_loaded(signals: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """By what a fork finds in its environment; it acts at its own name, once, at the hit that was named."""
    monkeypatch.setenv(VARIABLE, "before-commit=kill@2")
    for name in ("before-commit", "after-commit", "before-commit", "before-commit"):
        reach(name)
        signals.append(0)
    assert signals == [0, 0, signal.SIGKILL, 0, 0]


def test_without_the_variable_nothing_happens(signals: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    for name in failpoints.NAMES:
        reach(name)
    assert not signals


@pytest.mark.parametrize("text", ["nowhere=kill", "before-commit=sing", "before-commit=kill@soon"])
def test_a_wrong_one_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ValueError, match=r"must be <name>=kill\|stop"):
        reach("before-commit")
