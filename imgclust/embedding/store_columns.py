"""Some columns of an embeddings folder, and some of its rows, without the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from imgclust.embedding.store import checked_shards, shards
from imgclust.errors import EmbeddingsError, ImgclustError
from imgclust.support.columns import pieces, wanted_ids
from imgclust.support.machine import available_memory
from imgclust.types import EncoderIdentity


def some_columns(
    folder: Path, columns: Sequence[str], wanted: Iterable[str] | None = None
) -> Iterator[tuple[pa.RecordBatch, EncoderIdentity]]:
    """Some columns of an embeddings folder, in batches of at most 10,000 rows, each with its encoder.

    Args:
        wanted: the ids of the rows that are wanted; None: all.

    Raises:
        EmbeddingsError: as `iter_embeddings`.
    """
    ids = None if wanted is None else wanted_ids(wanted)
    for shard, identity in checked_shards(folder):
        for batch in pieces(shard, columns, ids):
            yield batch, identity


def first_id(folder: Path) -> str | None:
    """How ids look there; None: there is no image."""
    return next((str(batch["id"][0]) for batch, _ in some_columns(folder, ["id"])), None)


def count_rows(folder: Path) -> int:
    """How many images there are; no column is read."""
    return sum(pq.read_metadata(shard).num_rows for shard in shards(folder))


def check_memory(
    folder: Path,
    rows: int,
    each: int,
    copies: int,
    remedy: str,
    error: type[ImgclustError] = EmbeddingsError,
) -> None:
    """Refuse to load more of a folder than memory holds, before anything is read.

    Args:
        rows: images that would be loaded.
        each: bytes of each image beside its embedding.
        copies: bytes of each number of its embedding.
        remedy: what to do instead.

    Raises:
        EmbeddingsError: or `error`; it would not fit. Where the system reports no memory, all is let through.
    """
    there, found = available_memory(), shards(folder)
    if there is None or not found:
        return
    dim = pq.read_schema(found[0]).field("embedding").type.list_size
    needed = rows * (copies * dim + each)
    if needed > there:
        raise error(
            f"reading {rows} embeddings of {dim} numbers needs about {needed / 1e9:.1f} GB of memory, "
            f"{there / 1e9:.1f} GB are available: {remedy}"
        )
