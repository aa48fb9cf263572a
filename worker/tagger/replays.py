"""Uploads that `dlq replay` sends again must not win over an event that comes while they are sent.

Who sends them has looked for later events of their ids up to an offset; from there on the tagger looks itself
in the events that it took in last.
"""

from __future__ import annotations

from collections import OrderedDict

from worker.kafka.assignment import BegunPartition
from worker.messages.record import Record
from worker.messages.upload import Upload
from worker.tagger.endings import Endings
from worker.tagger.results import Reason
from worker.telemetry.tracing import UploadTrace

UNKNOWN = "its partition moved while it was sent again: a later event of its id may have come; send it again"

MOST = 32_768  # events: about 5 MB, and the last ten seconds of a busy worker


class RecentEvents:
    """Partition and id → offset of the last event, for the last so many events."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._offsets: OrderedDict[tuple[int, str], int] = OrderedDict()
        self._since: dict[int, int] = {}  # partition → offset from which on all of its events are here

    def begin(self, partition: int, position: int) -> None:
        """The partition is ours, and is read from `position`."""
        self._since[partition] = position

    def saw(self, partition: int, upload_id: str, offset: int) -> None:
        self._offsets[partition, upload_id] = offset
        self._offsets.move_to_end((partition, upload_id))
        if len(self._offsets) > self._most:
            (forgotten, _), last = self._offsets.popitem(last=False)
            self._since[forgotten] = max(last + 1, self._since.get(forgotten, 0))

    def later(self, partition: int, upload_id: str, start: int) -> bool | None:
        """Whether there was an event of the id at `start` or after it; None: that is not known any more."""
        if self._offsets.get((partition, upload_id), -1) >= start:
            return True
        since = self._since.get(partition)
        return False if since is not None and since <= start else None


class ReplayGuard:
    """Tells replays that may go on from those that a later event of their id has overtaken."""

    def __init__(self, endings: Endings) -> None:
        self._endings = endings
        self._recent = RecentEvents()

    def begin(self, begun: BegunPartition) -> None:
        self._recent.begin(begun.partition, begun.position)

    def admits(self, upload: Upload, record: Record, trace: UploadTrace | None) -> bool:
        """Whether the record goes on. A replay that does not has ended: superseded, or a dead letter again.
        The latter where nobody knows what came in between."""
        replay = record.replay
        if replay is None:
            self._recent.saw(record.partition, upload.id, record.offset)
            return True
        start = replay.source.offset + 1 if replay.seen is None else replay.seen
        overtaken = self._recent.later(record.partition, upload.id, start)
        if overtaken:
            self._endings.drop_replay(record, trace)
        elif overtaken is None and replay.seen is not None:
            reason = Reason(replay.error_code, "consume", UNKNOWN)
            self._endings.bury(record, upload.id.encode(), reason, trace)
            return False
        return not overtaken
