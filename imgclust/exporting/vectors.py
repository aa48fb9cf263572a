"""Embeddings that were made elsewhere → an embeddings folder, with an identity that is named by hand.

The folder appears once it is complete. Rows are brought to unit length and rounded to float16, as all are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imgclust.embedding.store import EmbeddingsWriter
from imgclust.errors import EmbeddingsError
from imgclust.images.sources import is_url
from imgclust.support.path_text import from_text, is_sound, storable
from imgclust.types import IMPORTED, EncoderIdentity, Preprocessing

PIECE = 4096
FLUSH_ROWS = 10_000
Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a file, n of them; `vectors`: float64 (n, dim), of any length."""

    ids: Sequence[str]
    vectors: Matrix
    sources: Sequence[str]
    attributes: Sequence[Mapping[str, Any]]


def identity_named(name: str, dim: int) -> EncoderIdentity:
    """The identity of imported embeddings: equal names and widths are comparable, and nothing else is.

    Raises:
        EmbeddingsError: an empty name, or one with characters that cannot be printed.
    """
    if not name.strip() or not name.isprintable():
        raise EmbeddingsError(f"an encoder's name is printable text, got {name!a:.200}")
    digest = hashlib.sha256(f"{IMPORTED}:{name}".encode()).hexdigest()
    return EncoderIdentity(name, IMPORTED, digest, Preprocessing(1, 1), "float32", dim)


def import_vectors(pieces: Iterator[Piece], out: Path, encoder_name: str) -> int:
    """Write rows into a new embeddings folder; it is there whole, or not at all.

    Args:
        pieces: see `parquet_pieces` and `npy_pieces`.
        out: a folder that does not exist, or is empty.
        encoder_name: what made the vectors; rows of equal names and widths may be mixed.

    Returns:
        The number of rows.

    Raises:
        EmbeddingsError: a row that cannot be used (named by its number), an id that comes twice, no rows, a
            folder that holds something.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise EmbeddingsError(f"{str(out)!a} already exists: import into a new folder")
    first = next(pieces, None)
    if first is None:
        raise EmbeddingsError("the file has no rows, so there is nothing to import")
    identity = identity_named(encoder_name, first.vectors.shape[1])
    unfinished = out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.part")
    try:
        with EmbeddingsWriter(unfinished, identity, shard_rows=FLUSH_ROWS) as writer:
            count = _append(writer, itertools.chain([first], pieces))
        unfinished.rename(out)
    except OSError as error:
        raise EmbeddingsError(f"{str(out)!a} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return count


def _append(writer: EmbeddingsWriter, pieces: Iterator[Piece]) -> int:
    met: set[str] = set()
    for piece in pieces:
        vectors = _unit(piece, len(met), writer.identity.dim)
        for i, id_ in enumerate(piece.ids):
            if not id_ or id_ in met:
                why = "comes twice" if id_ else "is empty"
                raise EmbeddingsError(
                    f"row {len(met) + 1}: the id {id_!a:.200} {why}; ids name one image each"
                )
            met.add(id_)
            writer.append(
                id=id_,
                source=piece.sources[i],
                embedding=vectors[i],
                width=0,
                height=0,
                sha256=None,
                attributes=piece.attributes[i],
            )
    return len(met)


def _unit(piece: Piece, before: int, dim: int) -> Matrix:
    if piece.vectors.shape[1] != dim:
        raise EmbeddingsError(
            f"row {before + 1} has {piece.vectors.shape[1]} numbers, those before it have {dim}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(piece.vectors, axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        raise EmbeddingsError(
            f"row {before + int(bad[0]) + 1} (id {piece.ids[bad[0]]!a:.200}) is zero or not finite, so "
            "it has no direction: leave such rows out"
        )
    unit: Matrix = piece.vectors / lengths[:, None]
    return unit


def npy_pieces(path: Path, ids: Path | None = None) -> Iterator[Piece]:
    """The rows of a NumPy file (n, dim), which is mapped and not loaded.

    Args:
        ids: a text file with an id a line, in the order of the rows; by default, ids are row numbers from 0.

    Raises:
        EmbeddingsError: another kind of file or shape, or another number of ids.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        names = ids.read_text("utf-8-sig").splitlines() if ids else None
    except (OSError, ValueError, EOFError) as error:
        raise EmbeddingsError(f"{str(path)!a} cannot be imported: {str(error)!a:.200}") from None
    if (
        not isinstance(array, np.ndarray)
        or array.ndim != 2
        or array.dtype.kind not in "fiu"
        or not array.size
    ):
        shown = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "several arrays"
        raise EmbeddingsError(f"{str(path)!a} must hold numbers (rows, width), it has {shown}")
    if names is not None and len(names) != len(array):
        raise EmbeddingsError(f"{str(ids)!a} has {len(names)} ids, {str(path)!a} has {len(array)} rows")
    for start in range(0, len(array), PIECE):
        rows = np.asarray(array[start : start + PIECE], np.float64)
        part = names[start : start + PIECE] if names else list(map(str, range(start, start + len(rows))))
        yield Piece(part, rows, [""] * len(rows), [{}] * len(rows))


def parquet_pieces(path: Path, id: str, vector: str, source: str | None = None) -> Iterator[Piece]:
    """The rows of a Parquet file.

    Args:
        id, vector: columns; vectors are lists of numbers, all of one length.
        source: a column with paths or URLs; relative paths start at the file's own folder. Other columns of
            texts, numbers and truth values become attributes.

    Raises:
        EmbeddingsError: no Parquet file, no such column, vectors that are missing or of several lengths.
    """
    try:
        with pq.ParquetFile(path) as file:
            columns = _columns(path, file.schema_arrow, id, vector, source)
            start = 0
            for batch in file.iter_batches(PIECE, columns=columns):
                if len(batch):
                    yield _piece(path, batch, start, id, vector, source)
                start += len(batch)
    except (OSError, pa.ArrowException) as error:
        raise EmbeddingsError(f"{str(path)!a} cannot be imported: {str(error)!a:.200}") from None


def _columns(path: Path, schema: pa.Schema, id: str, vector: str, source: str | None) -> list[str]:
    for column in (id, vector, *([source] if source else [])):
        if column not in schema.names:
            names = ", ".join(map(ascii, schema.names))
            raise EmbeddingsError(f"{str(path)!a} has no column {column!a:.200}; it has {names:.300}")
    kind = schema.field(vector).type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not listed or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise EmbeddingsError(f"the column {vector!a:.200} must hold lists of numbers, it has {kind}")
    simple = [field.name for field in schema if _is_simple(field.type)]
    return list(dict.fromkeys([id, vector, *([source] if source else []), *simple]))


def _is_simple(kind: pa.DataType) -> bool:
    checks = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating,
        pa.types.is_boolean,
    )  # fmt: skip
    return any(check(kind) for check in checks)


def _piece(path: Path, batch: pa.RecordBatch, start: int, id: str, vector: str, source: str | None) -> Piece:
    lists = batch.column(vector)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero((lengths != lengths[0]) | (lengths == 0))
    if len(wrong):
        raise EmbeddingsError(
            f"row {start + int(wrong[0]) + 1} has {lengths[wrong[0]]} numbers in {vector!a:.200}, row "
            f"{start + 1} has {lengths[0]}; all need the same width, and at least one number"
        )
    flat = np.asarray(lists.flatten().to_numpy(zero_copy_only=False), np.float64)
    others = [n for n in batch.schema.names if n not in (id, vector, source)]
    sources = batch.column(source).to_pylist() if source else [None] * len(batch)
    return Piece(
        ids=["" if value is None else storable(str(value)) for value in batch.column(id).to_pylist()],
        vectors=flat.reshape(len(batch), -1),
        sources=[_place(path, value) for value in sources],
        attributes=[
            {name: value for name, value in row.items() if _is_attribute(value)}
            for row in batch.select(others).to_pylist()
        ]
        or [{}] * len(batch),
    )


def _place(path: Path, value: Any) -> str:
    where = "" if value is None else from_text(str(value))
    return where if not where or is_url(where) else str(path.parent / where)


def _is_attribute(value: Any) -> bool:
    if isinstance(value, str):
        return is_sound(value)
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
