"""What is there at the end: the topics as `read_committed` readers see them, and the view."""

from __future__ import annotations

from typing import Any

from tests.faults.checker import History, Published, Shown
from tests.faults.feeding import LOG
from tests.faults.surroundings import PARTITIONS, Surroundings
from worker.kafka.offsets import lives_of, topics_of
from worker.kafka.scanner import Entry, Scanner
from worker.view.client import parse_pair

ALL = dict.fromkeys(range(PARTITIONS), 0)


def result_of(entry: Entry, *, dead: bool, base: int = 0) -> Published:
    """A record of tags or of the dead letters; `base`: where offsets of the topic of its source begin."""
    import orjson

    source = entry.source
    number = cluster = None
    if not dead and entry.value is not None:
        tag = orjson.loads(entry.value)
        number, cluster = tag["attributes"].get("n"), tag["cluster"]
    return Published(
        (entry.key or b"").decode(),
        entry.partition,
        entry.offset,
        None if source is None else (source.partition, base + source.offset),
        entry.timestamp,
        entry.headers.get("error-code", "?") if dead else None,
        None if dead else entry.value,
        number,
        cluster,
    )


class Reader:
    """Reads one run's topics."""

    def __init__(self, parts: Surroundings) -> None:
        self._parts = parts
        self._topics = parts.topics
        self._connection = {"bootstrap.servers": parts.broker.bootstrap}
        self._anew: list[dict[tuple[str, int], int]] = []  # ends when the uploads topic was made anew

    def begin_anew(self) -> None:
        """The uploads topic is about to be made anew, and what was in it has ended."""
        with Scanner(self._connection) as scanner:
            here = [(topic, p) for topic in (self._topics.tags, self._topics.dlq) for p in ALL]
            self._anew.append({at: scanner.bounds(*at)[1] for at in here})

    def _base(self, topic: str, entry: Entry) -> int:
        return LOG * sum(entry.offset >= ends[topic, entry.partition] for ends in self._anew)

    def results(self) -> list[Published]:
        with Scanner(self._connection) as scanner:
            return [
                result_of(entry, dead=dead, base=self._base(topic, entry))
                for topic, dead in ((self._topics.tags, False), (self._topics.dlq, True))
                for entry in scanner.read(topic, ALL)
            ]

    def pending(self) -> frozenset[str]:
        """Ids that the retry topic says are not decided."""
        last: dict[str, bool] = {}
        with Scanner(self._connection) as scanner:
            for entry in scanner.read(self._topics.retry, ALL):
                last[(entry.key or b"").decode()] = entry.value is not None
        return frozenset(upload_id for upload_id, waits in last.items() if waits)

    def behind(self) -> dict[int, int]:
        """Partition → events beyond the group's committed offset, where there are some."""
        with Scanner(self._connection, self._topics.group) as scanner:
            committed = scanner.committed(self._topics.uploads, ALL)
            ends = {p: scanner.bounds(self._topics.uploads, p)[1] for p in ALL}
        left = {p: end - committed.get(p, (0, ""))[0] for p, end in ends.items()}
        return {p: count for p, count in left.items() if count}

    def abandoned(self) -> list[int]:
        """Partitions of which the group's offsets do not say that their last owner left in order."""
        with Scanner(self._connection, self._topics.group) as scanner:
            committed = scanner.committed(self._topics.uploads, ALL)
        return sorted(p for p, (_, metadata) in committed.items() if lives_of(metadata))

    def topics_committed(self) -> set[str]:
        """The ids of the uploads topics that the group's offsets are of; empty for a partition without."""
        with Scanner(self._connection, self._topics.group) as scanner:
            committed = scanner.committed(self._topics.uploads, ALL)
        return {topics_of(committed.get(p, (0, ""))[1]).uploads for p in ALL}

    def view(self) -> dict[str, Shown]:
        client: Any = self._parts.redis.client()
        names = list(client.scan_iter("imgclust:tag:*", count=1000))
        pipe = client.pipeline(transaction=False)
        for name in names:
            pipe.hmget(name, "position", "tag")
        shown = {}
        for name, (position, tag) in zip(names, pipe.execute(), strict=True):
            at = parse_pair(position)
            if at is not None:
                shown[name.decode().removeprefix("imgclust:tag:")] = Shown(at, tag)
        return shown

    def history(self, events: list[Any], *, results: list[Published] | None = None) -> History:
        return History(events, self.results() if results is None else results, self.pending(), self.view())
