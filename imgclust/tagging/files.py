"""Predictions → a file: CSV, JSON lines or Parquet, by the file's ending. Rows stream; memory is constant.

**CSV and spreadsheets.** Excel and LibreOffice run a cell that begins with `=`, `+`, `-` or `@` as a
formula, and file names come from strangers. A text cell that begins so (after white space, and the
full-width forms likewise) is written with an apostrophe before it, which spreadsheets show as text; a
cell that already has such apostrophes gets one more, so `unguard` gives back exactly what was there.
Numbers are not touched. JSON lines and Parquet hold every text as it is.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from imgclust.errors import ImgclustError
from imgclust.support.path_text import storable, to_text
from imgclust.support.spreadsheets import guard
from imgclust.support.tables import appearing

if TYPE_CHECKING:
    import pyarrow as pa

    from imgclust.tagging.rows import Row

COLUMNS = (
    "id",
    "source",
    "cluster",
    "name",
    "probability",
    "novel",
    "candidates",
    "model",
    "taxonomy",
    "attributes",
    "similarity",
    "assigned",
    "from_class",
    "group",
)
PARQUET_ROWS = 10_000  # held at once


def as_json(row: Row) -> dict[str, Any]:
    """A row as JSON lines have it; the fields mean what they mean in a tag."""
    return {
        "id": storable(row.id),
        "source": to_text(row.source),
        "cluster": row.cluster,
        "name": row.name,
        "probability": row.probability,
        "novel": row.novel,
        "candidates": [{"cluster": c.cluster, "name": c.name, "score": c.score} for c in row.candidates],
        "model": row.model,
        "taxonomy": row.taxonomy,
        "attributes": dict(row.attributes),
        "similarity": row.similarity,
        "assigned": row.assigned,
        "from_class": row.from_class,
        "group": row.group,
    }


def write_rows(rows: Iterable[Row], path: Path | str) -> int:
    """Write predictions to a file; it appears under its name once it is complete, replacing an older one.

    Args:
        rows: the predictions, read once, in their order.
        path: `.csv`, `.jsonl` or `.ndjson`, or `.parquet`.

    Returns:
        The number of rows.

    Raises:
        ImgclustError: another ending, or a file that cannot be written.
    """
    path = Path(path)
    write = writer_for(path)
    with appearing(path) as file:
        return write(rows, file)


def writer_for(path: Path) -> Callable[[Iterable[Row], BinaryIO], int]:
    """The writer that a file's ending asks for, so that a wrong one is known before any work is done.

    Raises:
        ImgclustError: there is none.
    """
    try:
        return _WRITERS[path.suffix.lower()]
    except KeyError:
        raise ImgclustError(
            f"predictions are written as {', '.join(_WRITERS)}, by the file's ending; got {path.name!a}"
        ) from None


def _json_lines(rows: Iterable[Row], file: BinaryIO) -> int:
    n = 0
    for row in rows:
        file.write(orjson.dumps(as_json(row), option=orjson.OPT_APPEND_NEWLINE))
        n += 1
    return n


def _csv(rows: Iterable[Row], file: BinaryIO) -> int:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    out = csv.writer(text, lineterminator="\n")
    out.writerow(COLUMNS)
    n = 0
    for row in rows:
        record = as_json(row)
        record["candidates"] = orjson.dumps(record["candidates"]).decode()
        record["attributes"] = orjson.dumps(record["attributes"]).decode()
        for flag in ("novel", "assigned", "from_class"):
            record[flag] = "true" if record[flag] else "false"
        out.writerow([guard(v) if isinstance(v, str) else v for v in map(record.get, COLUMNS)])
        n += 1
    text.detach()  # flushes; the file itself is closed by whoever opened it
    return n


def schema() -> pa.Schema:
    """The columns of Parquet files, and their types."""
    import pyarrow as pa

    candidate = pa.struct([("cluster", pa.int32()), ("name", pa.string()), ("score", pa.float32())])
    kinds = {
        "cluster": pa.int32(),
        "group": pa.int32(),
        "probability": pa.float32(),
        "similarity": pa.float32(),
        "novel": pa.bool_(),
        "assigned": pa.bool_(),
        "from_class": pa.bool_(),
        "candidates": pa.list_(candidate),
    }
    return pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])


def as_record(row: Row) -> dict[str, Any]:
    """A row as `schema` has it: a map of any types has no column type, so attributes are text."""
    record = as_json(row)
    return {**record, "attributes": orjson.dumps(record["attributes"]).decode()}


def _parquet(rows: Iterable[Row], file: BinaryIO) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    n, stream, columns = 0, iter(rows), schema()
    with pq.ParquetWriter(file, columns) as out:
        while chunk := [as_record(row) for row in itertools.islice(stream, PARQUET_ROWS)]:
            out.write_table(pa.Table.from_pylist(chunk, schema=columns))
            n += len(chunk)
    return n


_WRITERS: Mapping[str, Callable[[Iterable[Row], BinaryIO], int]] = {
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
