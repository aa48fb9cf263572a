"""Records of the embeddings topic → tags of a model, and deletions."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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


class Retagger:
    """
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

    def tagged(self, entries: Sequence[Entry], counts: Counts) -> Iterator[tuple[Entry, bytes | None]]:
        """The records with their tags, None for a deletion, in their order: the last one of an id has to stay
        the last. What is no embedding of the model's encoder is left out."""
        records = [None if entry.value is None else self._usable(entry.value, counts) for entry in entries]
        predictions = self._predicted([record for record in records if record is not None])
        now = int(time.time() * 1000)
        for entry, record in zip(entries, records, strict=True):
            if entry.value is None:
                counts.deletions += 1
                yield entry, None
            elif record is not None:
                counts.tags += 1
                tag = tag_of(
                    next(predictions),
                    id=record.id,
                    url=record.url,
                    uploaded_at=record.uploaded_at,
                    tagged_at=now,
                    attributes=record.attributes,
                )
                yield entry, self._tags.write(tag)

    def _predicted(self, records: Sequence[EmbeddingRecord]) -> Iterator[Predicted]:
        if not records:
            return iter(())
        vectors = np.stack([record.vector for record in records]).astype(np.float32)
        return iter(rows(self._maker, range(len(records)), self._model.predict(vectors, batch=self._batch)))

    def _usable(self, value: bytes, counts: Counts) -> EmbeddingRecord | None:
        try:
            record = read_embedding(value)
        except ValueError:
            counts.left_out[NOT_EMBEDDINGS] += 1
            return None
        if not self._same_encoder(record.encoder):
            counts.left_out[OTHER_ENCODER] += 1
            return None
        return record

    def _same_encoder(self, encoder: Mapping[str, Any]) -> bool:
        if self._encoder is None or self._encoder[0] != encoder:  # records of one encoder follow each other
            mine = self._model.encoder
            self._encoder = encoder, mine is None or EncoderIdentity.from_dict(encoder).same_space(mine)
        return self._encoder[1]
