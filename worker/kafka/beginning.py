"""A commit and a log → where the log is read on from, what is done there, and what is lost. Pure."""

from __future__ import annotations

import dataclasses

from worker.kafka.offsets import NO_TOPICS, CommitTopics, cut, unfinished_of

MADE_ANEW = "the topic was deleted and created again; reading the new one from its start"
CUT = "the log begins after the committed offset; continuing at its start"
SHORTER = "the log ends before the committed offset; continuing at its end"
ANOTHER = "the log ends before the committed offset, and may be another one; reading it from its start"


@dataclasses.dataclass(frozen=True, slots=True)
class LastKnown:
    """What a partition was when this process left it.

    Attributes:
        left: records that were seen in the log and not done. If the topic is gone, nobody can have them.
    """

    topics: CommitTopics = NO_TOPICS
    left: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Beginning:
    """Where a partition is read on from.

    Attributes:
        metadata: of a commit at that position: what is done beyond it.
        lost: records that nobody can have any more, as far as that is known.
        why: what is not as it was left; empty where all is.
    """

    position: int
    metadata: str = ""
    lost: int = 0
    why: str = ""


def differ(known: str, now: str | None) -> bool:
    """Whether these are the ids of two topics; one that is not known is believed to be the same."""
    return bool(known and now) and known != now


def in_new_topic(metadata: str | None, before: CommitTopics, last_known: LastKnown, low: int) -> Beginning:
    """The topic of the commit is gone.

    Lost is what this process has seen of it, or at least what the commit says was begun.
    """
    left = last_known.left if last_known.topics.uploads == before.uploads else 0
    return Beginning(low, lost=max(left, unfinished_of(metadata)), why=MADE_ANEW)


def in_log(offset: int, metadata: str | None, low: int, high: int, *, same: bool) -> Beginning:
    """A commit in a log that reaches from `low` to `high`, where it could not be read on from.

    Args:
        same: it is known to be the topic that the offset was committed for. One that has lost its tail is
            read on from its end; of another one nothing was read.
    """
    if offset < low:
        left, lost = cut(offset, metadata, low)
        return Beginning(low, left, lost, CUT)
    if offset > high:
        return Beginning(high, "", offset - high, SHORTER) if same else Beginning(low, why=ANOTHER)
    return Beginning(offset, metadata or "")
