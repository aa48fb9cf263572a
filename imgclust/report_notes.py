"""What is known of single images beyond the map: from predictions, tags, or an embeddings folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
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


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    """Rows of a file that `imgclust predict` wrote, of tags as JSON lines, or of an embeddings folder."""
    ending = path.suffix.lower()
    if path.is_dir():
        from imgclust.embeddings import shards

        for shard in shards(path):
            yield from _parquet_records(shard, ["id", "attributes"])
    elif ending == ".parquet":
        yield from _parquet_records(path, None)
    elif ending == ".csv":
        import csv

        from imgclust.prediction_files import unguard

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


def _parquet_records(path: Path, columns: list[str] | None) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(path).iter_batches(columns=columns):
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
        candidates=tuple((int(c["cluster"]), _share(c["score"])) for c in candidates),
        attributes={str(k): str(v) for k, v in attributes.items() if v is not None},
    )


def _share(value: Any) -> float:
    """A number in 0..1; what is beyond is brought there, and NaN is 0."""
    return min(1.0, max(0.0, float(value)))


def read_notes(path: Path) -> dict[str, Note]:
    """Read probabilities, candidates and attributes by image id.

    Args:
        path: CSV, JSON lines or Parquet by its ending, as `imgclust predict -o` writes it; tags from the
            topic as JSON lines; or an embeddings folder, for the attributes alone.

    Raises:
        ImgclustError: the file is missing, of another ending, or not of predictions.
    """
    try:
        return {str(record["id"]): _note(record) for record in _records(path)}
    except OSError as error:
        raise ImgclustError(f"tags cannot be read from {str(path)!a}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImgclustError(
            f"{str(path)!a} does not hold predictions: each row needs an id, and a probability from 0 "
            f"to 1 ({type(error).__name__}: {str(error)!a})"
        ) from None
