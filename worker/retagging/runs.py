"""A run of `retag` as all of its members see it: how far each partition is to be tagged, and how far it is.

All of it is kept as committed offsets of the embeddings topic, with a note as their metadata. An offset and
its note are committed in the transaction that publishes the tags, so they agree with what is published.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import orjson

from worker.kafka.beginning import differ


@dataclasses.dataclass(frozen=True, slots=True)
class Note:
    """What is committed beside a partition's offset.

    Attributes:
        run: number of the run; each run to a topic has a higher one than the run before.
        model: version of the model that tags.
        target: id of the topic that the tags go to; empty where brokers do not report ids.
        begin, end: the offsets of the embeddings topic that the run is about: [begin, end).
        tags, deletions: published so far.
        left_out: reason → records that got no tag.
    """

    run: int
    model: str
    target: str
    begin: int
    end: int
    tags: int = 0
    deletions: int = 0
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def text(self) -> str:
        return orjson.dumps(self).decode()

    @classmethod
    def read(cls, text: str) -> Note | None:
        """None for what is no note."""
        try:
            fields: dict[str, Any] = orjson.loads(text)
            return cls(**fields)
        except (orjson.JSONDecodeError, TypeError):
            return None


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One partition of a run; `offset`: the first record that is not done."""

    offset: int
    note: Note

    @property
    def left(self) -> int:
        return max(0, self.note.end - self.offset)

    @property
    def done(self) -> int:
        return min(self.offset, self.note.end) - self.note.begin


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """All partitions of a run at one moment; counts are of offsets, where no other thing is said."""

    parts: Mapping[int, Part]

    @classmethod
    def read(cls, committed: Mapping[int, tuple[int, str]], partitions: Collection[int]) -> Run | None:
        """What the group has committed, as a run; None when there is none, or not a whole one.

        Args:
            committed: partition → (offset, metadata).
            partitions: those that a run has to have.
        """
        parts = {}
        for partition in partitions:
            offset, text = committed.get(partition, (0, ""))
            note = Note.read(text)
            if note is None:
                return None
            parts[partition] = Part(offset, note)
        run = cls(parts)
        alike = {(part.note.run, part.note.model, part.note.target) for part in parts.values()}
        return run if len(alike) == 1 else None

    @classmethod
    def begin(cls, number: int, model: str, target: str, bounds: Mapping[int, tuple[int, int]]) -> Run:
        """A run that has done nothing yet; `bounds`: partition → (begin, end)."""
        notes = {p: Note(number, model, target, low, max(low, high)) for p, (low, high) in bounds.items()}
        return cls({p: Part(note.begin, note) for p, note in notes.items()})

    @property
    def _note(self) -> Note:
        return next(iter(self.parts.values())).note

    @property
    def number(self) -> int:
        return self._note.run

    @property
    def model(self) -> str:
        return self._note.model

    def is_of(self, target: str) -> bool:
        """Whether its tags are in the topic with this id."""
        return not differ(self._note.target, target)

    @property
    def total(self) -> int:
        return sum(part.note.end - part.note.begin for part in self.parts.values())

    @property
    def done(self) -> int:
        return sum(part.done for part in self.parts.values())

    @property
    def left(self) -> int:
        return sum(part.left for part in self.parts.values())

    @property
    def unfinished(self) -> list[int]:
        """Partitions."""
        return sorted(p for p, part in self.parts.items() if part.left)

    @property
    def tags(self) -> int:
        """Published so far."""
        return sum(part.note.tags for part in self.parts.values())

    @property
    def deletions(self) -> int:
        """Published so far."""
        return sum(part.note.deletions for part in self.parts.values())

    @property
    def left_out(self) -> dict[str, int]:
        """Reason → records."""
        counts = Counter[str]()
        for part in self.parts.values():
            counts.update(part.note.left_out)
        return dict(counts)


def last_number(committed: Mapping[int, tuple[int, str]]) -> int:
    """The highest number of a run that is known; 0 without any."""
    notes = (Note.read(text) for _, text in committed.values())
    return max((note.run for note in notes if note is not None), default=0)
