"""worker.tagger.pacing: how much is on its way follows what the stages do, within bounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.tagger.pacing import HORIZON, LEAST, MAX_BYTES, MEASURE, Pacing


class Stages:
    """Everything that is taken ends after `latency` seconds, `capacity` a second at most."""

    def __init__(self, capacity: float, latency: float, most: int = 8192, least: int = LEAST) -> None:
        self.now = 0.0
        self.pacing = Pacing(most, lambda: self.now, least)
        self._capacity, self._latency = capacity, latency
        self._under_way: list[tuple[float, int]] = []  # when they may end, and how many
        self._allowance = 0.0
        self.ended = 0

    @property
    def load(self) -> int:
        return sum(n for _, n in self._under_way)

    def run(self, seconds: float, arriving: Callable[[int], int] = lambda room: room) -> float:
        """Rounds of 10 ms; returns what ended a second."""
        before, until = self.ended, self.now + seconds
        while self.now < until:
            self.now += 0.01
            self._allowance = min(self._allowance + self._capacity * 0.01, self._capacity)
            while self._under_way and self._under_way[0][0] <= self.now and self._allowance >= 1:
                at, n = self._under_way.pop(0)
                done = min(n, int(self._allowance))
                self._allowance -= done
                self.ended += done
                if n > done:
                    self._under_way.insert(0, (at, n - done))
            self.pacing.look(self.load, 0)
            n = min(arriving(self.pacing.room_for_new(0)), self.pacing.room())
            if n:
                self._under_way.append((self.now + self._latency, n))
                self.pacing.took(n)
        return (self.ended - before) / seconds


@pytest.mark.parametrize(("capacity", "latency"), [(16_000, 0.1), (10_000, 0.3), (500, 0.05)])
def test_what_the_stages_can_do_is_not_held_back(capacity: int, latency: float) -> None:
    """After a second the rate is that of the stages; not LEAST uploads a latency."""
    stages = Stages(capacity, latency)
    stages.run(2.0)
    assert stages.run(3.0) >= 0.95 * capacity


def test_slow_servers_do_not_hold_it_back() -> None:
    """Downloads of 3 seconds on 2,000 connections: as many are under way, although half a second's work is
    less."""
    stages = Stages(10_000, 3.0, least=4000)
    stages.run(8.0)
    assert stages.run(6.0) >= 1200


@pytest.mark.parametrize("capacity", [200, 4_000, 12_000])
def test_no_more_is_held_than_a_time_s_worth(capacity: int) -> None:
    """However many uploads wait in the topic."""
    stages = Stages(capacity, 0.05)
    stages.run(5.0)
    assert stages.load <= max(LEAST, 1.2 * HORIZON * capacity)


@given(st.integers(1, 24_000), st.integers(1, 50_000), st.floats(0.01, 2.0))
def test_the_bound_holds(most: int, capacity: int, latency: float) -> None:
    """Whatever the rate."""
    stages = Stages(capacity, latency, most)
    for _ in range(4):
        stages.run(MEASURE)
        assert stages.load <= most
        assert stages.pacing.limit <= most


def test_bytes_are_bounded_as_well() -> None:
    """There is no room for what is large."""
    pacing = Pacing(8192, lambda: 0.0)
    pacing.look(3, MAX_BYTES)
    assert pacing.room() == pacing.room_for_new(0) == 0


@given(st.integers(0, 9000), st.integers(0, 9000))
def test_new_uploads_and_retries_share_the_room(load: int, due: int) -> None:
    """Each side gets half, or what the other leaves."""
    pacing = Pacing(8192, lambda: 0.0)
    pacing.look(load, 0)
    new = pacing.room_for_new(due)
    assert 0 <= new <= pacing.room()
    assert pacing.room() - new == min(due, pacing.room() // 2)
