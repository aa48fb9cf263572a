"""A file of tags against the model's predictions for its held-out images: the report's sheets on drift."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from imgclust.errors import ImgclustError
from imgclust.model.drift import PARTS, Drift, DriftCounts, Reference, compare
from imgclust.report.annotations import batches, parquet_files, records
from imgclust.types import OTHER

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel

COLUMNS = ("cluster", "probability", "novel", "taxonomy", "similarity")
CHUNK = 10_000
MOVED = 8  # clusters that are listed


@dataclasses.dataclass(frozen=True, slots=True)
class TagsDrift:
    """What a file of tags shows.

    Attributes:
        file: its name.
        foreign: tags that were left out, as their clusters are another taxonomy's.
    """

    file: str
    drift: Drift
    foreign: int


def read_drift(model: ClusterModel, path: Path) -> TagsDrift | None:
    """Count a file of tags and compare it with the model's held-out images.

    Args:
        path: as `imgclust.report.annotations.read_notes` reads it; without a column "similarity", which tags
        of the
            topic do not have, similarities are not compared.

    Returns:
        None for a model that keeps no held-out images.

    Raises:
        ImgclustError: the file cannot be read, or does not hold tags of this model.
    """
    reference = Reference.of_model(model)
    if reference is None:
        return None
    tally, foreign = reference.nothing, 0
    try:
        for chunk in _chunks(path):
            own = chunk.filter(_own(chunk, model.taxonomy))
            foreign += len(chunk) - len(own)
            tally += _count(reference, own)
    except OSError as error:
        raise ImgclustError(f"tags cannot be read from {str(path)!a}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ImgclustError(
            f"{str(path)!a} does not hold tags of this model: each row needs a cluster and a probability "
            f"({type(error).__name__}: {str(error)!a})"
        ) from None
    return TagsDrift(path.name, compare(reference, tally), foreign)


def _chunks(path: Path) -> Iterator[pa.RecordBatch]:
    """Some of the rows, with those of `COLUMNS` that there are."""
    if parquet_files(path):
        yield from batches(path, COLUMNS)
        return
    rows = records(path)
    while chunk := list(itertools.islice(rows, CHUNK)):
        there = [name for name in COLUMNS if any(name in row for row in chunk)]
        yield pa.RecordBatch.from_pydict({n: pa.array([_plain(row.get(n)) for row in chunk]) for n in there})


def _plain(value: Any) -> str | None:
    """As text, from which any column type can be read."""
    return None if value in (None, "") else str(value)


def _own(chunk: pa.RecordBatch, taxonomy: str) -> pa.Array:
    """Which tags are of a taxonomy, or of none that they name."""
    if "taxonomy" not in chunk.schema.names:
        return pa.array([True] * len(chunk))
    named = chunk.column("taxonomy").cast(pa.string())
    return pc.or_(pc.fill_null(pc.equal(named, ""), True), pc.fill_null(pc.equal(named, taxonomy), True))


def _count(reference: Reference, tags: pa.RecordBatch) -> DriftCounts:
    near = tags.column("similarity") if "similarity" in tags.schema.names else None
    novel = (
        tags.column("novel").cast(pa.string()) if "novel" in tags.schema.names else pa.array([], pa.string())
    )
    return reference.count_tags(
        _numbers(tags, "cluster", pa.int32()),
        _numbers(tags, "probability", pa.float32()),
        pc.sum(pc.equal(pc.utf8_lower(novel), "true")).as_py() or 0,
        None if near is None or near.null_count else _numbers(tags, "similarity", pa.float32()),
    )


def _numbers(tags: pa.RecordBatch, name: str, kind: pa.DataType) -> Any:
    column = tags.column(name)
    if column.null_count:
        raise ValueError(f"a row without a {name}")
    return column.cast(kind, safe=False).to_numpy(zero_copy_only=False)


def sheets(found: TagsDrift, names: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    """Titles and rows, as `imgclust.report.figures.words` has them."""
    drift = found.drift
    left_out = f" ({found.foreign:,} of another taxonomy left out)" if found.foreign else ""
    rows = [["Tags", f"{drift.tally.images:,}{left_out}"], ["Held-out images", f"{drift.reference.images:,}"]]
    rows += [[part.capitalize(), _index(drift, part)] for part in PARTS]
    rows.append(["Other", _change(drift.reference.other, drift.tally.other)])
    rows.append(["Novel", _change(drift.reference.novelty, drift.tally.novelty)])
    yield {"title": f"Drift: {found.file} against held-out images", "rows": rows}
    moved = [
        ["Other" if cluster == OTHER else names.get(cluster, f"Cluster {cluster}"), _change(before, now)]
        for cluster, before, now in drift.moved()[:MOVED]
        if before != now
    ]
    yield {"title": "What moved most", "rows": moved if drift.tally.images else []}


def tile(found: TagsDrift) -> tuple[str, str, str | None]:
    """Label, value and note for the top of the page."""
    verdict = found.drift.verdict("clusters")
    return "Drift", verdict.capitalize(), f"stability index {_number(found.drift.index['clusters'])}"


def _index(drift: Drift, part: str) -> str:
    index, chance = drift.index[part], drift.chance[part]
    if math.isnan(index):
        return "not in these tags"
    verdict = drift.verdict(part)
    doubt = f", chance alone makes {_number(chance)}" if verdict == "steady" and index > 0.1 else ""
    return f"{_number(index)}, {verdict}{doubt}"


def _number(index: float) -> str:
    return "–" if math.isnan(index) else f"{index:.2f}"


def _change(before: float, now: float) -> str:
    return f"{_share(before)} → {_share(now)}"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"
