"""Parquet in pieces: of many millions of rows, the few that are wanted, and of those the columns that are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imgclust.support.path_text import is_sound

ID = "id"
ROWS = 10_000  # of a piece, at most


def wanted_ids(ids: Iterable[str]) -> pa.Array:
    """Ids as `pieces` takes them; one that no file can hold is left out."""
    return pa.array([i for i in ids if is_sound(i)], pa.string())


def pieces(path: Path, columns: Sequence[str], wanted: pa.Array | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, some at a time; of a part without a wanted row only the ids are read.

    Args:
        columns: those of them that the file has are read.
        wanted: of `wanted_ids`; None: all rows. The file must have the column `id` then.

    Raises:
        OSError, pyarrow.ArrowException: the file cannot be read.
        KeyError: it has no ids.
    """
    with pq.ParquetFile(path) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        if wanted is None:
            yield from file.iter_batches(ROWS, columns=there)
            return
        if ID not in file.schema_arrow.names:
            raise KeyError(ID)
        for group in range(file.num_row_groups):
            keep = _are_wanted(file.read_row_group(group, columns=[ID])[ID], wanted)
            if pc.any(keep).as_py():
                yield from _kept(file, group, there, keep)


def _are_wanted(ids: pa.ChunkedArray, wanted: pa.Array) -> pa.ChunkedArray:
    return pc.is_in(ids.cast(pa.string()), value_set=wanted)


def _kept(file: pq.ParquetFile, group: int, columns: list[str], keep: pa.ChunkedArray) -> Iterator[Any]:
    start = 0
    for batch in file.iter_batches(ROWS, row_groups=[group], columns=columns):
        chosen = keep.slice(start, len(batch)).combine_chunks()
        start += len(batch)
        if pc.any(chosen).as_py():
            yield batch.filter(chosen)
