"""Dead letters: what a record of their topic says, which of them are meant, what may be sent back."""

from __future__ import annotations

import dataclasses

from worker.errors import Rejected
from worker.kafka.scanner import Entry
from worker.messages.headers import DeadLetterHeaders, SourcePosition
from worker.messages.upload import Upload


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter.

    Attributes:
        id: of the upload; None where the event has none that can be read.
        source: where the upload was read; None for a record that the worker did not write.
        omitted: the upload was too large to be copied; its place is `source`.
    """

    entry: Entry
    id: str | None
    source: SourcePosition | None
    code: str
    stage: str
    message: str
    attempts: str
    model: str
    omitted: bool


def upload_of(entry: Entry) -> Upload | None:
    """The upload event that a record of uploads, or of the dead letters, holds; None if it is none."""
    # a dead letter's key is the id, unless the event was bad from the start: then it is the event's own key
    known = None
    if entry.value is not None and entry.key and entry.headers.get("error-code", "bad-event") != "bad-event":
        known = entry.key.decode(errors="replace")
    try:
        return entry.formats.intake(entry.value, entry.key, entry.timestamp, known)
    except Rejected:
        return None


def read_dead_letter(entry: Entry) -> DeadLetter:
    """A record of the dead-letter topic; it may have been written by anybody."""
    headers, upload = DeadLetterHeaders.read(entry.headers), upload_of(entry)
    return DeadLetter(
        entry,
        None if upload is None else upload.id,
        entry.source,
        headers.code,
        headers.stage,
        headers.message,
        "?" if headers.attempts is None else str(headers.attempts),
        headers.model,
        headers.omitted,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are meant; an empty field means all. Ages are in seconds, since it was written."""

    codes: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    partitions: frozenset[int] = frozenset()
    older_than: float | None = None
    newer_than: float | None = None

    def takes(self, letter: DeadLetter, now_ms: int) -> bool:
        age = (now_ms - letter.entry.timestamp) / 1000
        return (
            (not self.codes or letter.code in self.codes)
            and (not self.ids or letter.id in self.ids)
            and (not self.partitions or letter.entry.partition in self.partitions)
            and (self.older_than is None or age >= self.older_than)
            and (self.newer_than is None or age <= self.newer_than)
        )
