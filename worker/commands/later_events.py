"""Later events of an id: what must not be overtaken by an old upload that is sent again."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping

from worker.commands.dead_letters import DeadLetter, read_dead_letter, upload_of
from worker.commands.output import watching
from worker.kafka.scanner import Entry, Scanner
from worker.messages.headers import SourcePosition
from worker.settings.settings import Settings


@dataclasses.dataclass(frozen=True, slots=True)
class Later:
    """A later event of an id, and where it was seen, for people."""

    source: SourcePosition
    where: str


class LaterEvents:
    """The latest known event of each id that matters."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._latest: dict[str, Later | None] = dict.fromkeys(ids)

    def __contains__(self, upload_id: object) -> bool:
        return upload_id in self._latest

    def saw(self, upload_id: str, source: SourcePosition, where: str) -> None:
        """An event of `upload_id` was read at `source`; `where` says what became of it."""
        known = self._latest[upload_id]
        if known is None or known.source.earlier_than(source):
            self._latest[upload_id] = Later(source, where)

    def after(self, upload_id: str, source: SourcePosition) -> Later | None:
        """The latest event of the id, if it is later than `source`."""
        known = self._latest.get(upload_id)
        return known if known is not None and source.earlier_than(known.source) else None


def reason_to_skip(letter: DeadLetter, later: LaterEvents, *, without_id: bool) -> str | None:
    """Why sending this dead letter again would be wrong or useless; None when it would not.

    Args:
        without_id: whether dead letters whose event has no readable id are wanted.
    """
    if letter.source is None:
        return "it does not say where it came from: the worker did not write it"
    if letter.omitted:
        return (
            f"its upload was too large to be copied; it is in the uploads topic at {letter.source.position}"
        )
    if letter.id is None:
        return None if without_id else "its event has no id, and would be rejected again"
    found = later.after(letter.id, letter.source)
    return None if found is None else f"{found.where} (upload at {found.source.position})"


class Search:
    """Looks for later events in all topics, and in the newest uploads again and again.

    Args:
        ids: that matter.
        partitions: of all topics, in which they are.
    """

    def __init__(
        self, scanner: Scanner, settings: Settings, ids: Iterable[str], partitions: Collection[int]
    ) -> None:
        self._scanner, self._settings, self._partitions = scanner, settings, partitions
        self.later = LaterEvents(ids)
        self._seen: dict[int, int] = {}

    @property
    def seen(self) -> Mapping[int, int]:
        """Partition of uploads → offset below which no event was missed."""
        return self._seen

    def look(self) -> None:
        """Everywhere.

        Raises:
            WorkerError: Kafka is away, or does not let us read.
        """
        self._see_dead_letters()
        self._see_tags()
        self._see_retries()
        committed = self._scanner.committed(self._settings.uploads_topic, self._partitions)
        self._seen = {p: committed[p][0] if p in committed else 0 for p in self._partitions}
        self.look_again()

    def look_again(self) -> None:
        """At the uploads that have come since, finished by a worker or not."""
        topic = self._settings.uploads_topic
        ends = {p: self._scanner.bounds(topic, p)[1] for p in self._partitions}
        with watching(f"reading {topic}") as progress:
            for entry in self._scanner.read(topic, self._seen, progress=progress):
                upload = upload_of(entry)
                if upload is not None and upload.id in self.later:
                    source = SourcePosition(entry.partition, entry.offset, entry.timestamp)
                    self.later.saw(upload.id, source, "a later event of the id is on its way")
        self._seen = {p: max(end, self._seen[p]) for p, end in ends.items()}

    def _see_dead_letters(self) -> None:
        for entry in self._read(self._settings.dlq_topic):
            letter = read_dead_letter(entry)
            if letter.id is not None and letter.id in self.later and letter.source is not None:
                where = f"a later event of the id is a dead letter: {entry.position}"
                self.later.saw(letter.id, letter.source, where)

    def _see_tags(self) -> None:
        for entry in self._read(self._settings.tags_topic):
            source, upload_id = entry.source, _key_id(entry.key)
            if source is not None and upload_id is not None:
                what = "is tagged" if entry.value is not None else "is a deletion"
                where = f"a later event of the id {what}: {entry.position} in tags"
                self.later.saw(upload_id, source, where)

    def _see_retries(self) -> None:
        last: dict[str, Entry] = {}
        for entry in self._read(self._settings.retry_topic):
            upload_id = _key_id(entry.key)
            if upload_id is not None:
                last[upload_id] = entry
        for upload_id, entry in last.items():
            source = entry.source
            if entry.value is not None and source is not None:
                self.later.saw(upload_id, source, "a later event of the id waits for another try")

    def _read(self, topic: str) -> Iterator[Entry]:
        with watching(f"reading {topic}") as progress:
            yield from self._scanner.read(
                topic,
                dict.fromkeys(self._partitions, 0),
                progress=progress,
                wanted=lambda key, _: _key_id(key) in self.later,
            )


def _key_id(key: bytes | None) -> str | None:
    if key is None:
        return None
    with contextlib.suppress(UnicodeDecodeError):
        return key.decode()
    return None
