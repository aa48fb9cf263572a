"""Sweeps go in small steps, however much there is that they leave alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from worker.view.keys import Keys
from worker.view.sweep import Sweeper, ghosts, strays

CHUNKS = 3000  # of SCAN
MOST = 6  # round trips in a step: the loop must see to Kafka and its health in between


class Redis:
    """A large Redis of other people's keys, with a cluster's set of ours in the last chunk. Counts what it is
    asked."""

    def __init__(self) -> None:
        self.asked = 0

    def scan(self, cursor: int, **_: object) -> tuple[int, list[bytes]]:
        self.asked += 1
        after = (cursor + 1) % CHUNKS
        return after, [] if after else [Keys().cluster("t1", 1)]

    def zscan(self, key: bytes, cursor: int, count: int) -> tuple[int, list[tuple[bytes, float]]]:
        self.asked += 1
        return 0, [(b"a", 1.0)]

    def pipeline(self, transaction: bool) -> Pipeline:
        return Pipeline(self)


class Pipeline:
    def __init__(self, redis: Redis) -> None:
        self.redis, self.commands = redis, 0

    def execute_command(self, *_: object) -> None:
        self.commands += 1

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        self.redis.asked += 1
        return [None] * self.commands


def steps(redis: Redis, sweep: Iterator[int]) -> Iterator[int]:
    """Round trips of each step."""
    before = 0
    for _ in sweep:
        yield redis.asked - before
        before = redis.asked


@pytest.mark.parametrize("kind", ["strays", "ghosts", "clear"])
def test_a_step_is_a_few_round_trips(kind: str) -> None:
    """Also where chunk after chunk holds nothing of ours: with a billion keys the loop would stand still."""
    redis: Any = Redis()
    sweep = {
        "strays": lambda: strays(redis, Keys()),
        "ghosts": lambda: ghosts(redis, Keys(), lambda *_: True),
        "clear": lambda: Sweeper(redis, Keys(), lambda: 0.0).clear(0),
    }[kind]()
    taken = list(steps(redis, sweep))
    assert len(taken) >= CHUNKS
    assert max(taken) <= MOST
