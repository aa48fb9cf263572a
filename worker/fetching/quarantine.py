"""Which image killed a fetcher process: what is tried again, how, and what is given up. Pure.

The process leaves a mark that says what it was decoding, so mostly there is one suspect, and it is tried once
more with nothing else in the process. Where there is no mark (killed from outside, a crash outside of the
decoder), all that it held are suspects; they are tried apart from others, and halved each time the process
dies again, until the one that kills is alone. A job is given up only when the process died with it alone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Set

from worker.fetching.protocol import Job

# A job that was beside the mark in so many lost processes is a suspect too: it may be what kills, only never
# in the decoder, and would otherwise go round for ever.
INNOCENT_TIMES = 3


class Quarantine:
    """The suspects of one fetcher.

    Args:
        bystanders: how often each job was in a lost process without a mark on it; shared by all fetchers.
    """

    def __init__(self, bystanders: Counter[int]) -> None:
        self._bystanders = bystanders
        self._groups: deque[list[Job]] = deque()
        self._trying: list[Job] = []

    def __len__(self) -> int:
        return sum(map(len, self._groups))

    @property
    def trying(self) -> bool:
        """Whether a group has the process for itself."""
        return bool(self._trying)

    def next_group(self) -> list[Job]:
        """The jobs to try next, with nothing beside them; call it when the process holds nothing."""
        self._trying = []
        while self._groups and not self._trying:
            self._trying = self._groups.popleft()
        return self._trying

    def forget(self, tokens: Set[int]) -> None:
        self._groups = deque([job for job in group if job.token not in tokens] for group in self._groups)

    def lost(self, held: list[Job], marked: int) -> tuple[list[Job], list[Job]]:
        """The process is gone.

        Args:
            held: the jobs that it had not answered.
            marked: the token that it was decoding, or 0.

        Returns:
            What anybody may try again as if nothing had happened, and what is given up.
        """
        tried, self._trying = self._trying, []
        if len(tried) == 1:
            return [], held
        blamed = [job for job in held if job.token == marked]
        if blamed:
            self._groups.appendleft(blamed)
            others = [job for job in held if job.token != marked]
            return (self._set_apart(others), []) if not tried else (self._add(others), [])
        if tried:  # halve them
            half = (len(held) + 1) // 2
            self._add(held[:half])
            return self._add(held[half:]), []
        return self._add(held), []

    def _set_apart(self, jobs: list[Job]) -> list[Job]:
        """Those that were beside the mark; returns the ones that are still above suspicion."""
        self._bystanders.update(job.token for job in jobs)
        self._add([job for job in jobs if self._bystanders[job.token] >= INNOCENT_TIMES])
        return [job for job in jobs if self._bystanders[job.token] < INNOCENT_TIMES]

    def _add(self, group: Iterable[Job]) -> list[Job]:
        if jobs := list(group):
            self._groups.append(jobs)
        return []
