"""What is known of single images beyond the map: from predictions, tags, or an embeddings folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgclust.errors import ImgclustError
from imgclust.support.columns import pieces, wanted_ids

if TYPE_CHECKING:
    import pyarrow as pa


@dataclasses.dataclass(frozen=True, slots=True)
class Note:
    """What is known of one image beyond its place: from a file of predictions or tags."""

    probability: float | None = None
    novel: bool = False
    candidates: tuple[tuple[int, float], ...] = ()
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    assigned: bool = False
    reason: str | None = None  # of an image in "other": one of `imgclust.model.reasons.KINDS`


COLUMNS = ("id", "probability", "novel", "candidates", "attributes", "assigned")


def parquet_files(path: Path) -> list[Path]:
    """The files of an embeddings folder, of a folder of predictions, or the one that is named; else none."""
    from imgclust.embedding.store import shards

    if path.is_dir():
        return shards(path) or sorted(path.glob("part-*.parquet"))
    return [path] if path.suffix.lower() == ".parquet" else []


def batches(path: Path, columns: Sequence[str], wanted: Set[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Rows of `parquet_files`, some at a time.

    Args:
        columns: that are read, of those that there are.
        wanted: ids of the rows that are wanted; None: all.

    Raises:
        ValueError: not Parquet.
    """
    import pyarrow as pa

    ids = None if wanted is None else wanted_ids(wanted)
    try:
        for file in parquet_files(path):
            yield from pieces(file, columns, ids)
    except pa.ArrowException as error:
        raise ValueError(f"not Parquet: {error}") from None


def records(path: Path, wanted: Set[str] | None = None) -> Iterator[Mapping[str, Any]]:
    """Rows of what `imgclust predict` wrote, of tags as JSON lines, or of an embeddings folder.

    Args:
        wanted: ids of the rows that are wanted; None: all.
    """
    if parquet_files(path):
        for batch in batches(path, COLUMNS, wanted):
            yield from batch.to_pylist()
    else:
        yield from (row for row in _lines(path) if wanted is None or str(row["id"]) in wanted)


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    ending = path.suffix.lower()
    if ending == ".csv":
        import csv

        from imgclust.support.spreadsheets import unguard

        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield {k: unguard(v or "") for k, v in row.items() if k}
    elif ending in (".jsonl", ".ndjson", ".json"):
        with path.open("rb") as file:
            yield from (_parsed(line) for line in file if line.strip())
    else:
        raise ImgclustError(
            f"tags are read from .csv, .jsonl or .parquet, as `imgclust predict -o` writes them; "
            f"got {path.name!a}"
        )


def _parsed(line: bytes) -> Any:
    import orjson

    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # NaN, which only the slower one takes
        return json.loads(line)


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
        path: CSV, JSON lines or Parquet by its ending, or a folder of parts, as `imgclust predict -o` writes
            it; tags from the topic as JSON lines; or an embeddings folder, for the attributes alone.
        wanted: ids that matter; of millions of tags the others are not kept.

    Raises:
        ImgclustError: the file is missing, of another ending, or not of predictions.
    """
    try:
        return {str(record["id"]): _note(record) for record in records(path, wanted)}
    except OSError as error:
        raise ImgclustError(f"tags cannot be read from {str(path)!a}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ImgclustError(
            f"{str(path)!a} does not hold predictions: each row needs an id, and a probability from 0 "
            f"to 1 ({type(error).__name__}: {str(error)!a})"
        ) from None
