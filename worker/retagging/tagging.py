"""Records of the embeddings topic → tags of a model, and deletions."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from imgclust.model.model import ClusterModel
from imgclust.types import EncoderIdentity
from worker.kafka.scanner import Entry
from worker.messages.embedding import EmbeddingRecord, read_embedding
from worker.messages.formats import TagFormat
from worker.retagging.runs import Note
from worker.tagger.prediction import ModelInfo, Predicted, rows, tag_of

OTHER_ENCODER, NOT_EMBEDDINGS = "of another encoder", "not embeddings"


@dataclasses.dataclass(slots=True)
class Counts:
    """What became of records."""

    tags: int = 0
    deletions: int = 0
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)

    def added_to(self, note: Note) -> Note:
        return dataclasses.replace(
            note,
            tags=note.tags + self.tags,
            deletions=note.deletions + self.deletions,
            left_out=dict(self.left_out + Counter(note.left_out)),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    """A record of the embeddings topic, and what it is answered with.

    Attributes:
        left_out: why it gets no tag; empty where it gets one, or a deletion.
    """

    entry: Entry
    record: EmbeddingRecord | None = None
    predicted: Predicted | None = None
    left_out: str = ""


class Retagger:
    """Predicts, then writes: in two steps, so that a thread can predict the next batch meanwhile.

    Args:
        batch: embeddings that are predicted at once.
    """

    def __init__(self, model: ClusterModel, tags: TagFormat, batch: int) -> None:
        self._model, self._tags, self._batch = model, tags, batch
        self._maker = ModelInfo.of(model)
        self._encoder: tuple[Mapping[str, Any], bool] | None = None  # the last, and whether it fits

    @property
    def content_type(self) -> bytes:
        return self._tags.content_type

    def answered(self, batches: Generator[list[Entry]]) -> Generator[list[Answered]]:
        """Batches with their predictions; closes what it reads."""
        with contextlib.closing(batches):
            for batch in batches:
                yield self._answer(batch)

    def _answer(self, entries: Sequence[Entry]) -> list[Answered]:
        read = [self._read(entry) for entry in entries]
        records = [one.record for one in read if one.record is not None]
        if not records:
            return read
        vectors = np.stack([record.vector for record in records]).astype(np.float32)
        found = rows(self._maker, range(len(records)), self._model.predict(vectors, batch=self._batch))
        predictions = iter(found)
        return [
            one if one.record is None else Answered(one.entry, one.record, next(predictions)) for one in read
        ]

    def _read(self, entry: Entry) -> Answered:
        if entry.value is None:
            return Answered(entry)
        try:
            record = read_embedding(entry.value)
        except ValueError:
            return Answered(entry, left_out=NOT_EMBEDDINGS)
        if not self._same_encoder(record.encoder):
            return Answered(entry, left_out=OTHER_ENCODER)
        return Answered(entry, record)

    def _same_encoder(self, encoder: Mapping[str, Any]) -> bool:
        if self._encoder is None or self._encoder[0] != encoder:  # records of one encoder follow each other
            mine = self._model.encoder
            self._encoder = encoder, mine is None or EncoderIdentity.from_dict(encoder).same_space(mine)
        return self._encoder[1]

    def written(self, answered: Sequence[Answered], counts: Counts) -> Iterator[tuple[Entry, bytes | None]]:
        """The records that are answered, with their tags, None for a deletion; in their order: the last one
        of an id has to stay the last."""
        now = int(time.time() * 1000)
        for one in answered:
            if one.left_out:
                counts.left_out[one.left_out] += 1
            elif one.record is None or one.predicted is None:
                counts.deletions += 1
                yield one.entry, None
            else:
                counts.tags += 1
                tag = tag_of(
                    one.predicted,
                    id=one.record.id,
                    url=one.record.url,
                    uploaded_at=one.record.uploaded_at,
                    tagged_at=now,
                    attributes=one.record.attributes,
                )
                yield one.entry, self._tags.write(tag)
