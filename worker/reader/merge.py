"""Several sorted sets as one sequence, newest first, read a little at a time."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from worker.reader.cursor import Place
from worker.view.client import bytes_of

SPARE = 8  # members asked for beyond those wanted: some are in a set by mistake, or of a score that was seen

# One command of a pipeline: the client's method, its arguments.
Command = tuple[str, tuple[Any, ...], dict[str, Any]]


def command(method: str, *arguments: Any, **options: Any) -> Command:
    return method, arguments, options


@dataclasses.dataclass(slots=True)
class Stream:
    """One set, read from the top down.

    Redis can only begin at a score, so those of the same score up to `after` are read once more and left
    out; with many of one score (a bulk import) that takes more than one round.
    """

    cluster: int
    key: bytes
    after: Place | None
    step: int
    ask: int = 0
    ahead: deque[Place] = dataclasses.field(default_factory=deque)
    ended: bool = False

    def next_command(self) -> Command:
        self.ask = self.ask or (self.step if self.after is None else self.step + SPARE)
        highest = "+inf" if self.after is None else self.after.score
        return command("zrevrangebyscore", self.key, highest, "-inf", start=0, num=self.ask, withscores=True)

    def take(self, reply: Sequence[tuple[Any, Any]]) -> None:
        places = [Place(int(score), bytes_of(member)) for member, score in reply]
        fresh = [place for place in places if self.after is None or place < self.after]
        full = len(reply) >= self.ask
        if full and not fresh:
            self.ask *= 2  # from the first of that score again: what leaves the set meanwhile shifts the rest
            return
        self.ended, self.ask = not full, 0
        if fresh:
            self.ahead.extend(fresh)
            self.after = fresh[-1]


def merged(
    streams: Sequence[Stream], count: int
) -> Generator[list[Command], list[Any], list[tuple[int, Place]]]:
    """The next places of all sets together, newest first, with their clusters.

    Returns:
        `count` or fewer, but none only when all sets have ended.
    """
    while hungry := [stream for stream in streams if not stream.ahead and not stream.ended]:
        replies = yield [stream.next_command() for stream in hungry]
        for stream, reply in zip(hungry, replies, strict=True):
            stream.take(reply)
    found: list[tuple[int, Place]] = []
    while len(found) < count:
        newest = max((s for s in streams if s.ahead), key=lambda s: s.ahead[0], default=None)
        if newest is None:
            break
        found.append((newest.cluster, newest.ahead.popleft()))
        if not newest.ahead and not newest.ended:
            break  # what it has next may be newer than what the others have
    return found
