"""What a fit reads of an embeddings folder: all of it, or a sample of so many images; the rest is predicted.

An image is in the sample if the hash of its id is among the smallest: neither the order of the images nor of
the shards has an influence, and images that come later put few of the others out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imgclust.embedding.store import (
    Embeddings,
    iter_vectors,
    read_embeddings,
    read_rows,
    shard_batches,
    shards,
)
from imgclust.embedding.store_columns import check_memory, count_rows
from imgclust.errors import FitError
from imgclust.model.model import ClusterModel
from imgclust.types import OTHER

LISTS = 1_087  # bytes of an image's id, source, digest and attributes, once they are Python's
COPIES = 12  # bytes of each number of an embedding: as it is read, rounded and sorted, float32

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """A folder's images for a fit.

    Attributes:
        embeddings: those that are fitted, or held out.
        left: int64; numbers of the other images in the folder, ascending.
    """

    embeddings: Embeddings
    folder: Path
    left: Rows

    def rest(
        self, model: ClusterModel, advance: Callable[[int], None] = lambda rows: None
    ) -> tuple[int, int]:
        """Predict the images that are not in the sample, batch by batch; nothing of them is kept.

        Args:
            advance: called with the number of images of each batch.

        Returns:
            How many they are, and how many of them are in "other".
        """
        other = 0
        for numbers, vectors, identity in iter_vectors(self.folder, self.left):
            other += int((model.predict(vectors, encoder=identity).labels == OTHER).sum())
            advance(len(numbers))
        return len(self.left), other


def read_sample(folder: Path, max_train: int, test_fraction: float, among: Rows | None = None) -> Sample:
    """Read as many images as may be trained on and held out; all, where there are no more.

    Args:
        among: numbers of the folder's images that may be taken, ascending; None: all.

    Raises:
        FitError: they would not fit into memory; nothing was read yet.
        EmbeddingsError: there are no embeddings, or they cannot be read.
    """
    folder = Path(folder)
    wanted = math.ceil(max_train / (1 - min(test_fraction, 0.9)))
    if not shards(folder):
        return Sample(read_embeddings(folder), folder, np.empty(0, np.int64))  # which says what to do
    total = count_rows(folder)
    rows = np.arange(total) if among is None else among
    remedy = f"train on fewer (max_train, now {max_train})"
    check_memory(folder, min(len(rows), wanted), LISTS, COPIES, remedy, FitError)
    if len(rows) <= wanted:
        return Sample(read_rows(folder, rows), folder, np.empty(0, np.int64))
    hashes = np.concatenate(
        [_hashes(batch["id"].to_pylist()) for batch, _ in shard_batches(folder, columns=["id"])]
    )[rows]
    inside = hashes < np.partition(hashes, wanted)[wanted]
    return Sample(read_rows(folder, rows[inside]), folder, rows[~inside])


def _hashes(ids: Iterable[str]) -> npt.NDArray[np.uint64]:
    return np.frombuffer(b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids), "<u8")
