"""What the view remembers of its partitions, and of the records that are on their way to Redis."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

from worker.view.records import TagRecord
from worker.view.store import Reached
from worker.view.sweep import Rebuild


@dataclasses.dataclass(slots=True)
class ViewPartition:
    """One owned partition of the tags topic.

    Attributes:
        epoch: of the assignment.
        next: offset below which everything is in Redis; None until Kafka and Redis were asked, and while the
            partition waits to be read again.
        topic: the id of the topic that `next` is an offset of; empty where the brokers tell none.
        committed: what the group has committed; None for nothing.
        at: ms since the epoch: until then, nothing was in the topic that is not in Redis, or at or after
            `next`. Compaction forgets deletions that are older than this plus `delete.retention.ms`.
        paused: None until the client knows.
        rewind: where the partition is to be read again from, until group and Redis have taken note.
        clearing: removes what Redis has of a topic that was made anew; before anything else.
        rebuild: set while all of the partition is read again, to find out what is no longer in it.
    """

    epoch: int
    next: int | None = None
    topic: str = ""
    committed: int | None = None
    at: int = 0
    paused: bool | None = None
    rewind: Reached | None = None
    clearing: Iterator[int] | None = None
    rebuild: Rebuild | None = None

    @property
    def to_commit(self) -> int | None:
        """What the group should have committed; None while that is not known."""
        if self.clearing is not None:  # it is begun again by whoever comes next, until all is removed
            return None
        return self.rewind.offset if self.rewind is not None else self.next


@dataclasses.dataclass(slots=True)
class Batch:
    """Records that were read and are not in Redis yet.

    Attributes:
        records: those that are tags or deletions.
        malformed: (partition, offset) of those that are not.
        ends: by partition, the offset after the last one that was read.
        newest: by partition, the latest time of a record in ms since the epoch.
    """

    records: list[TagRecord] = dataclasses.field(default_factory=list)
    malformed: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    ends: dict[int, int] = dataclasses.field(default_factory=dict)
    newest: dict[int, int] = dataclasses.field(default_factory=dict)

    def passed(self, partition: int, end: int, timestamp: int = 0) -> None:
        """The partition was read up to `end`."""
        self.ends[partition] = end
        self.newest[partition] = max(timestamp, self.newest.get(partition, 0))

    def drop(self, partitions: Collection[int]) -> int:
        """Forget these partitions' records; returns how many there were."""
        before = len(self.records)
        self.records = [record for record in self.records if record.partition not in partitions]
        self.malformed = [place for place in self.malformed if place[0] not in partitions]
        for partition in partitions:
            self.ends.pop(partition, None)
            self.newest.pop(partition, None)
        return before - len(self.records)
