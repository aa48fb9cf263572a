"""The embeddings folder: Parquet shards, the encoder's identity in each shard's metadata.

A shard is written under another name and renamed, so a shard that is there is whole.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imgclust.embedding.tables import as_table
from imgclust.errors import EmbeddingsError
from imgclust.images.perceptual import Hashes
from imgclust.support.path_text import from_text, storable, to_text
from imgclust.support.tables import UNFINISHED, remove_unfinished, whole
from imgclust.types import EncoderIdentity, Floats

MAX_SHARD_ROWS = 100_000
IDENTITY_KEY = b"imgclust.encoder"
FOLDER_KEY = b"imgclust.folder"  # where relative sources begin
_PATTERN = "embeddings-[0-9]*.parquet"


def schema(identity: EncoderIdentity) -> pa.Schema:
    """The columns of a shard; the metadata hold the encoder's identity and the working folder."""
    try:
        folder = os.getcwdb()
    except OSError:  # it was removed
        folder = b""
    return pa.schema(
        [
            ("id", pa.string()),
            ("source", pa.string()),
            ("embedding", pa.list_(pa.float16(), identity.dim)),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("sha256", pa.string()),
            ("attributes", pa.string()),
            ("phash", pa.uint64()),
        ],
        metadata={
            IDENTITY_KEY: json.dumps(identity.to_dict(), sort_keys=True),
            FOLDER_KEY: to_text(os.fsdecode(folder)),
        },
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Embeddings:
    """n images and their places in the encoder's space.

    Attributes:
        ids, sources: n strings; `source` is the path, as the system names it, or the URL that was read.
        vectors: float32 (n, dim), unit-norm rows that hold float16 values.
        widths, heights: int32 (n,), pixels of the original.
        sha256: n hex digests of the files' bytes; None where they are not known.
        attributes: n mappings.
        identity: of the encoder.
        hashes: uint64 (n,), perceptual hashes of the whole pictures; 0 where one is not known, as in shards
            from before they were kept. See `imgclust.images.perceptual`.
    """

    ids: list[str]
    sources: list[str]
    vectors: Floats
    widths: npt.NDArray[np.int32]
    heights: npt.NDArray[np.int32]
    sha256: list[str | None]
    attributes: list[Mapping[str, Any]]
    identity: EncoderIdentity
    hashes: Hashes = dataclasses.field(default_factory=lambda: np.empty(0, np.uint64))

    def __post_init__(self) -> None:
        if len(self.hashes) != len(self.ids):
            object.__setattr__(self, "hashes", np.zeros(len(self.ids), np.uint64))

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return (
            f"<Embeddings: {len(self):,} images, {self.vectors.shape[1]} numbers each, {self.identity.name}>"
        )

    def to_arrow(self) -> pa.Table:
        """A pyarrow table: id, source, width, height, sha256, a column for each attribute that has no other
        column's name, and the embedding, a fixed-size list of float32.
        """
        return as_table(
            self.ids,
            list(map(to_text, self.sources)),
            {"width": self.widths, "height": self.heights},
            self.sha256,
            self.attributes,
            self.vectors,
        )

    def to_pandas(self) -> Any:
        """As `to_arrow`, as a pandas DataFrame; an embedding is an array in its cell."""
        return self.to_arrow().to_pandas()


class EmbeddingsWriter:
    """Appends rows to an embeddings folder.

    Rows are kept in memory until `flush`, or until a shard is full; only whole shards are ever visible.
    Use it as a context manager: leaving it flushes, also on an error, as every appended row is complete.

    Raises:
        EmbeddingsError: the folder holds embeddings of another encoder, or cannot be written.
    """

    def __init__(self, folder: Path, identity: EncoderIdentity, *, shard_rows: int = MAX_SHARD_ROWS) -> None:
        self.folder, self.identity = Path(folder), identity
        self._shard_rows = min(shard_rows, MAX_SHARD_ROWS)
        self._schema = schema(identity)
        self._columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / ".lock").open("w")
        try:
            self._next = self._prepare()
        except BaseException:
            self._lock.close()
            raise

    def _prepare(self) -> int:
        """Keep other writers out until this one is closed or its process ends; → the next shard's number."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise EmbeddingsError(
                f"another process is writing to {str(self.folder)!a}; wait for it, or use another folder"
            ) from None
        remove_unfinished(self.folder, "embeddings-*")
        found = shards(self.folder)
        for shard in found:
            _check_same(self.identity, _identity_of(shard), shard)
        return 1 + max((int(shard.stem.split("-")[1]) for shard in found), default=-1)

    def append(
        self,
        *,
        id: str,
        source: str,
        embedding: npt.NDArray[np.floating[Any]],
        width: int,
        height: int,
        sha256: str | None,
        attributes: Mapping[str, Any] | None = None,
        phash: int | None = None,
    ) -> None:
        """Add one image; `embedding`: (dim,), float16 values. None and sizes of 0: not known."""
        row = {
            "id": storable(id), "source": to_text(source), "embedding": np.asarray(embedding, np.float16),
            "width": width, "height": height, "sha256": sha256,
            "attributes": json.dumps(dict(attributes or {}), ensure_ascii=False, sort_keys=True),
            "phash": phash,
        }  # fmt: skip
        for name, value in row.items():
            self._columns[name].append(value)
        if self.pending >= self._shard_rows:
            self.flush()

    @property
    def pending(self) -> int:
        """Rows that are not in a shard yet."""
        return len(self._columns["id"])

    @property
    def next_shard(self) -> int:
        """The number of the shard that is written next."""
        return self._next

    def flush(self) -> None:
        """Write the pending rows as one shard; it appears whole or not at all."""
        if not self.pending:
            return
        columns = {n: v for n, v in self._columns.items() if n != "embedding"}
        flat = pa.array(np.concatenate(self._columns["embedding"]), pa.float16())
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, self.identity.dim)
        table = pa.table({n: columns[n] for n in self._schema.names}, schema=self._schema)
        with _writing(self.folder), whole(self._path) as file:
            pq.write_table(table, file, compression="zstd")
        self._next += 1
        for values in self._columns.values():
            values.clear()

    @property
    def _path(self) -> Path:
        return self.folder / f"embeddings-{self._next:06d}.parquet"

    def adopt(self, name: str) -> None:
        """Make a file of `write_apart` the next shard: from now on its images count.

        Raises:
            EmbeddingsError: it is not in this folder.
        """
        try:
            (self.folder / name).rename(self._path)
        except FileNotFoundError:
            raise EmbeddingsError(
                f"{str(self.folder / name)!a} was written on another machine and is not here: the output "
                "folder must be on storage that every machine sees under the same path"
            ) from None
        except OSError as error:
            raise EmbeddingsError(
                f"embeddings cannot be written to {str(self.folder)!a}: {error.strerror or error}"
            ) from None
        self._next += 1

    def __enter__(self) -> EmbeddingsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            self._lock.close()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmbeddingsError(
            f"embeddings cannot be written to {str(folder)!a}: {error.strerror or error}"
        ) from None


def write_apart(folder: Path, rows: pa.Table) -> str:
    """Write rows of `schema` beside the shards, for any number of processes at once; → the file's name.

    The file is no shard before the folder's `EmbeddingsWriter` adopts it; the next one removes those that
    were not adopted.

    Raises:
        EmbeddingsError: it cannot be written.
    """
    name = f".embeddings-{uuid.uuid4().hex}{UNFINISHED}"
    with _writing(folder), (folder / name).open("xb") as file:
        pq.write_table(rows, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    return name


def shards(folder: Path) -> list[Path]:
    """The folder's shards, oldest first."""
    return sorted(Path(folder).glob(_PATTERN))


def _check_same(wanted: EncoderIdentity, found: EncoderIdentity, shard: Path) -> None:
    remedy = "embeddings of different encoders cannot be mixed; use another folder"
    found.check_same(wanted, "the rest by", remedy, here=f"{str(shard)!r} was made by")


def _identity_of(shard: Path) -> EncoderIdentity:
    try:
        metadata = pq.read_schema(shard).metadata or {}
        return EncoderIdentity.from_dict(json.loads(metadata[IDENTITY_KEY]))
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise EmbeddingsError(
            f"{str(shard)!r} is not a shard of embeddings ({type(error).__name__}: {error}); "
            "remove it, or make the folder again with `imgclust embed`"
        ) from None


def working_folder(shard: Path) -> str | None:
    """Where a shard's relative sources begin; None: it does not record that."""
    folder = (pq.read_schema(shard).metadata or {}).get(FOLDER_KEY, b"")
    return from_text(folder.decode()) or None


def read_ids(folder: Path) -> set[str]:
    """The ids of all whole shards."""
    return {i for shard in shards(folder) for i in pq.read_table(shard, columns=["id"])["id"].to_pylist()}


def iter_embeddings(folder: Path) -> Iterator[Embeddings]:
    """Read an embeddings folder shard by shard.

    Raises:
        EmbeddingsError: no shards, a damaged shard, or shards of different encoders.
    """
    for shard, identity in checked_shards(folder):
        yield _from_table(pq.read_table(shard), identity)


def vectors_of(column: pa.Array | pa.ChunkedArray, dim: int) -> Floats:
    """float32 (n, dim) of a column of embeddings."""
    flat = column.flatten().to_numpy(zero_copy_only=False)
    vectors: Floats = flat.reshape(-1, dim).astype(np.float32)
    return vectors


def checked_shards(folder: Path) -> Iterator[tuple[Path, EncoderIdentity]]:
    found = shards(folder)
    if not found:
        raise EmbeddingsError(
            f"there are no embeddings in {str(folder)!r}; make them with: imgclust embed IMAGES -o {folder}"
        )
    wanted = _identity_of(found[0])
    for shard in found:
        identity = _identity_of(shard)
        _check_same(wanted, identity, shard)
        yield shard, identity


def shard_batches(
    folder: Path, rows: int = 10_000, columns: Sequence[str] | None = None
) -> Iterator[tuple[pa.RecordBatch, EncoderIdentity]]:
    """An embeddings folder as it is stored, in batches of at most so many rows, each with its encoder.

    Args:
        columns: those that are read; None: all.

    Raises:
        EmbeddingsError: as `iter_embeddings`.
    """
    for shard, identity in checked_shards(folder):
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(rows, columns=columns):
                yield batch.replace_schema_metadata(None), identity


def read_rows(folder: Path, rows: npt.NDArray[np.int64]) -> Embeddings:
    """Read some images of a folder.

    Args:
        rows: their numbers in its order, ascending; at least one.

    Raises:
        EmbeddingsError: as `iter_embeddings`.
    """
    return concat([_from_table(pa.table(part), identity) for _, part, identity in _parts(folder, rows)])


def iter_vectors(
    folder: Path, rows: npt.NDArray[np.int64] | None = None
) -> Iterator[tuple[npt.NDArray[np.int64], Floats, EncoderIdentity]]:
    """Read a folder's vectors and nothing else, in batches: numbers of images, float32 (n, dim), the encoder.

    Args:
        rows: numbers of the images that are wanted, ascending; None: all.

    Raises:
        EmbeddingsError: as `iter_embeddings`.
    """
    for numbers, part, identity in _parts(folder, rows, ["embedding"]):
        yield numbers, vectors_of(part["embedding"], identity.dim), identity


def _parts(
    folder: Path, rows: npt.NDArray[np.int64] | None, columns: Sequence[str] | None = None
) -> Iterator[tuple[npt.NDArray[np.int64], pa.RecordBatch, EncoderIdentity]]:
    """Batches that hold some rows, without the others; None: with all."""
    before = 0
    for batch, identity in shard_batches(folder, columns=columns):
        after = before + len(batch)
        if rows is None:
            yield np.arange(before, after), batch, identity
        elif len(some := rows[slice(*np.searchsorted(rows, [before, after]))]):
            yield some, batch.take(pa.array(some - before)), identity
        before = after


def _from_table(table: pa.Table, identity: EncoderIdentity) -> Embeddings:
    def numbers(name: str) -> Any:
        return table[name].combine_chunks().to_numpy(zero_copy_only=False)

    return Embeddings(
        ids=table["id"].to_pylist(),
        sources=[from_text(source) for source in table["source"].to_pylist()],
        vectors=vectors_of(table["embedding"].combine_chunks(), identity.dim),
        widths=numbers("width"),
        heights=numbers("height"),
        sha256=table["sha256"].to_pylist(),
        attributes=[json.loads(a) for a in table["attributes"].to_pylist()],
        identity=identity,
        hashes=_hashes(table),
    )


def _hashes(table: pa.Table) -> Hashes:
    if "phash" not in table.column_names:  # a shard from before they were kept
        return np.zeros(len(table), np.uint64)
    return np.asarray(pc.fill_null(table["phash"].combine_chunks(), 0), np.uint64)


def read_embeddings(folder: Path) -> Embeddings:
    """Read a whole embeddings folder into memory.

    Raises:
        EmbeddingsError: as `iter_embeddings`.
    """
    return concat(list(iter_embeddings(folder)))


def concat(parts: Sequence[Embeddings]) -> Embeddings:
    """Join embeddings of one encoder."""
    return Embeddings(
        ids=[i for p in parts for i in p.ids],
        sources=[s for p in parts for s in p.sources],
        vectors=np.concatenate([p.vectors for p in parts]),
        widths=np.concatenate([p.widths for p in parts]),
        heights=np.concatenate([p.heights for p in parts]),
        sha256=[s for p in parts for s in p.sha256],
        attributes=[a for p in parts for a in p.attributes],
        identity=parts[0].identity,
        hashes=np.concatenate([p.hashes for p in parts]),
    )
