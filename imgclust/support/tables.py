"""Records → a file: CSV (safe to open in a spreadsheet), JSON lines or Parquet, by the file's ending."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from imgclust.errors import ImgclustError
from imgclust.support.spreadsheets import guard

ENDINGS = (".csv", ".jsonl", ".parquet")
UNFINISHED = ".part"  # how the name of a file ends that is being written
Record = Mapping[str, Any]


def check_ending(path: Path, also: Sequence[str] = ()) -> None:
    """Refuse a wrong ending before any work is done.

    Raises:
        ImgclustError: naming the endings that are known.
    """
    if path.suffix.lower() not in (*ENDINGS, *also):
        known = ", ".join((*ENDINGS, *also))
        raise ImgclustError(f"{path.name!a} must end in one of {known}, which selects the format")


def write_records(records: Sequence[Record], path: Path, columns: Sequence[str]) -> None:
    """Write records, which all have the columns; the file appears once it is complete.

    Raises:
        ImgclustError: another ending, or a file that cannot be written.
    """
    check_ending(path)
    content = {".csv": as_csv, ".jsonl": _json_lines, ".parquet": _parquet}[path.suffix.lower()](
        records, columns
    )
    write_whole(path, content)


def write_whole(path: Path, content: bytes) -> None:
    """A file under its name once it is complete, in the place of an older one.

    Raises:
        ImgclustError: it cannot be written.
    """
    with appearing(path) as file:
        file.write(content)


@contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """A file to be written in pieces, which is under its name once the block has ended without an error.

    Raises:
        ImgclustError: it cannot be written.
    """
    try:
        with whole(path) as file:
            yield file
    except OSError as error:
        raise ImgclustError(
            f"{str(path)!a} cannot be written: {error.strerror or error}; give a file in an existing "
            "folder that you may write to"
        ) from None


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """As `appearing`, for a folder that has its own words: an OSError stays what it is.

    The file is on the disk before it gets its name: a machine that stops leaves the old one or the new one.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path, pattern: str = "*") -> None:
    """What killed writers left in a folder that is this process's alone."""
    for left_over in folder.glob(f".{pattern}{UNFINISHED}"):
        left_over.unlink()


def utf8(text: str) -> str:
    """File names may hold bytes that are no UTF-8, as lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()


def _clean(value: Any) -> Any:
    return utf8(value) if isinstance(value, str) else value


def as_csv(records: Sequence[Record], columns: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    out = csv.writer(text, lineterminator="\n")
    out.writerow(columns)
    for record in records:
        values = [_clean(record[column]) for column in columns]
        out.writerow([guard(value) if isinstance(value, str) else value for value in values])
    return text.getvalue().encode()


def _json_lines(records: Sequence[Record], columns: Sequence[str]) -> bytes:
    import orjson

    rows = ({column: _clean(record[column]) for column in columns} for record in records)
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _parquet(records: Sequence[Record], columns: Sequence[str]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({column: [_clean(record[column]) for record in records] for column in columns})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())
