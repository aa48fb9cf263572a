"""Duplicates in an embeddings folder: of its columns only those that are compared are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from imgclust.embedding.store import iter_vectors, shard_batches
from imgclust.embedding.store_columns import check_memory, count_rows, some_columns
from imgclust.images.perceptual import UNKNOWN, Hashes
from imgclust.support.path_text import from_text
from imgclust.training.dedupe import Duplicates, Rows, find_duplicates
from imgclust.types import Floats

NUMBER = 4  # bytes of a number of an embedding: float32
DIGEST = 400  # bytes of an image's digest among those that were met, its hash and what it joins


@dataclasses.dataclass(frozen=True, slots=True)
class StoredDuplicates:
    """Which images of a folder are one picture.

    Attributes:
        found: by the numbers of the images in the folder.
        hashes: uint64 (n,), perceptual hashes; 0 where one is not known.
        images: number → (id, source), of the images that are duplicates or have some.
    """

    found: Duplicates
    hashes: Hashes
    images: dict[int, tuple[str, str]]


def find_stored_duplicates(
    folder: Path, threshold: float, progress: Callable[[float], None] | None = None
) -> StoredDuplicates:
    """Find the images of a folder that show the same picture; see `find_duplicates`.

    Args:
        threshold: a cosine above 0; above 1 no embedding is read, and only equal files count.
        progress: called with the share of the comparisons that is done, 0..1.

    Raises:
        EmbeddingsError: the folder is unreadable, or larger than memory; nothing was read then.
    """
    folder = Path(folder)
    remedy = "--near 2 finds equal files without reading embeddings; `fit` looks for duplicates in a sample"
    total = count_rows(folder)
    check_memory(folder, total, DIGEST, NUMBER if threshold <= 1 else 0, remedy)
    digests: list[str | None] = []
    hashes: list[Hashes] = []
    for batch, _ in some_columns(folder, ["sha256", "phash"]):
        digests += batch.column("sha256").to_pylist()
        known = "phash" in batch.schema.names  # shards from before they were kept have none
        hashes.append(
            np.asarray(pc.fill_null(batch.column("phash"), UNKNOWN), np.uint64)
            if known
            else np.full(len(batch), UNKNOWN, np.uint64)
        )
    joined = np.concatenate(hashes)
    found = find_duplicates(
        lambda rows: _vectors(folder, rows), digests, hashes=joined, threshold=threshold, progress=progress
    )
    shown = np.union1d(found.duplicate, found.original)
    return StoredDuplicates(found, joined, _images(folder, shown))


def _vectors(folder: Path, rows: Rows) -> Floats:
    """float32 (len(rows), d), filled batch by batch."""
    found: Floats | None = None
    start = 0
    for numbers, vectors, _ in iter_vectors(folder, rows):
        if found is None:
            found = np.empty((len(rows), vectors.shape[1]), np.float32)
        found[start : start + len(numbers)] = vectors
        start += len(numbers)
    assert found is not None
    return found


def _images(folder: Path, rows: npt.NDArray[np.int64]) -> dict[int, tuple[str, str]]:
    found: dict[int, tuple[str, str]] = {}
    before = 0
    for batch, _ in shard_batches(folder, columns=["id", "source"]):
        some = rows[slice(*np.searchsorted(rows, [before, before + len(batch)]))]
        taken = batch.take(some - before)
        pairs = zip(taken.column("id").to_pylist(), taken.column("source").to_pylist(), strict=True)
        for row, (image, source) in zip(some.tolist(), pairs, strict=True):
            found[row] = image, from_text(source)
        before += len(batch)
    return found
