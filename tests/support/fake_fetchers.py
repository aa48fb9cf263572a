"""Stands where `FetcherPool` stands; a test says how each job ends. See tests/contracts/test_fetchers.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from imgclust.types import Pixels
from worker.fetching.protocol import Decoded, Failed, FetchOutcome, Job


class FakeFetchers:
    """Jobs stay open until a test ends them: by hand, as the pipeline's tests do, or with `finish`.

    Attributes:
        jobs: those that are open, in the order in which they came.
        released: slots that came back.
        cancelling: forgotten jobs that have not ended; a test sets it.
    """

    alive, restarts = 1, 0
    cancelling = 0

    def __init__(
        self, slots: int = 8, side: int = 8, on_outcomes: Callable[[list[FetchOutcome]], None] | None = None
    ) -> None:
        self.jobs: list[Job] = []
        self.released: list[int] = []
        self._pictures = np.zeros((slots, side, side, 3), np.uint8)
        self._free = list(range(slots))
        self._on_outcomes = on_outcomes or (lambda _: None)

    def submit(self, jobs: list[Job]) -> None:
        self.jobs += jobs

    def release(self, slots: list[int]) -> None:
        self.released += slots
        self._free += slots

    def forget(self, tokens: Iterable[int]) -> None:
        gone = set(tokens)
        self.jobs = [job for job in self.jobs if job.token not in gone]

    def pixels(self, slot: int) -> Pixels:
        picture: Pixels = self._pictures[slot]
        return picture

    @property
    def slots_used(self) -> int:
        return len(self._pictures) - len(self._free)

    def finish(self, pictures: dict[str, Pixels]) -> None:
        """End what can be ended: with the URL's picture while there are slots, or as not found."""
        outcomes: list[FetchOutcome] = []
        for job in list(self.jobs):
            found = pictures.get(job.url)
            if found is None:
                outcomes.append(Failed(job.token, "not-found", "fetch", "no such picture", True, None))
            elif self._free:
                slot = self._free.pop()
                self._pictures[slot] = found
                outcomes.append(Decoded(job.token, slot, 64, 48, 100, 0.0, 0.0))
            else:
                continue
            self.jobs.remove(job)
        if outcomes:
            self._on_outcomes(outcomes)
