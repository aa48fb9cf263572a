"""What is known of single images beyond the map: from predictions, tags, or an embeddings folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from imgclust.errors import ImgclustError


@dataclasses.dataclass(frozen=True, slots=True)
class Note:
    """What is known of one image beyond its place: from a file of predictions or tags."""

    probability: float | None = None
    novel: bool = False
    candidates: tuple[tuple[int, float], ...] = ()
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    assigned: bool = False
    reason: str | None = None  # of an image in "other": one of `imgclust.model.reasons.KINDS`


def records(path: Path, columns: Sequence[str] | None = None) -> Iterator[Mapping[str, Any]]:
    """Rows of a file that `imgclust predict` wrote, of tags as JSON lines, or of an embeddings folder.

    Args:
        columns: that are wanted, of those that there are: others of a Parquet file are not read.
    """
    ending = path.suffix.lower()
    if path.is_dir():
        from imgclust.embedding.store import shards

        for shard in shards(path):
            yield from _parquet_records(shard, ["id", "attributes"])
    elif ending == ".parquet":
        yield from _parquet_records(path, columns)
    elif ending == ".csv":
        import csv

        from imgclust.support.spreadsheets import unguard

        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield {k: unguard(v or "") for k, v in row.items() if k}
    elif ending in (".jsonl", ".ndjson", ".json"):
        with path.open("rb") as file:
            yield from (json.loads(line) for line in file if line.strip())
    else:
        raise ImgclustError(
            f"tags are read from .csv, .jsonl or .parquet, as `imgclust predict -o` writes them; "
            f"got {path.name!a}"
        )


def _parquet_records(path: Path, columns: Sequence[str] | None) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        there = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=there):
            yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise ValueError(f"not Parquet: {error}") from None


def _note(record: Mapping[str, Any]) -> Note:
    candidates = record.get("candidates") or ()
    if isinstance(candidates, str):
        candidates = json.loads(candidates)
    attributes = record.get("attributes") or {}
    if isinstance(attributes, str):
        attributes = json.loads(attributes)
    probability = record.get("probability")
    return Note(
        probability=None if probability in (None, "") else _share(probability),
        novel=str(record.get("novel")).lower() == "true",
        assigned=str(record.get("assigned")).lower() == "true",
        candidates=tuple((int(c["cluster"]), _share(c["score"])) for c in candidates),
        attributes={str(k): str(v) for k, v in attributes.items() if v is not None},
    )


def _share(value: Any) -> float:
    """A number in 0..1; what is beyond is brought there, and NaN is 0."""
    return min(1.0, max(0.0, float(value)))


def read_notes(path: Path, wanted: Set[str] | None = None) -> dict[str, Note]:
    """Read probabilities, candidates and attributes by image id.

    Args:
        wanted: ids that matter; of a long stream of tags the others are not kept.
        path: CSV, JSON lines or Parquet by its ending, as `imgclust predict -o` writes it; tags from the
            topic as JSON lines; or an embeddings folder, for the attributes alone.

    Raises:
        ImgclustError: the file is missing, of another ending, or not of predictions.
    """
    try:
        return {
            image: _note(record)
            for record in records(path)
            if (image := str(record["id"])) and (wanted is None or image in wanted)
        }
    except OSError as error:
        raise ImgclustError(f"tags cannot be read from {str(path)!a}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImgclustError(
            f"{str(path)!a} does not hold predictions: each row needs an id, and a probability from 0 "
            f"to 1 ({type(error).__name__}: {str(error)!a})"
        ) from None
