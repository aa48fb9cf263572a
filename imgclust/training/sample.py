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
import pyarrow.parquet as pq

from imgclust.embedding.store import Embeddings, concat, iter_embeddings, shards
from imgclust.errors import FitError
from imgclust.model.model import ClusterModel
from imgclust.searching.subset import take
from imgclust.support.machine import available_memory
from imgclust.types import OTHER

LISTS = 1_087  # bytes of an image's id, source, digest and attributes, once they are Python's
COPIES = 12  # bytes of each number of an embedding: as it is read, rounded and sorted, float32


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """A folder's images for a fit.

    Attributes:
        embeddings: those that are fitted, or held out.
        total: images of the folder.
    """

    embeddings: Embeddings
    total: int
    folder: Path
    _least_left: int | None

    @classmethod
    def whole(cls, embeddings: Embeddings, folder: Path) -> Sample:
        """All that there is."""
        return cls(embeddings, len(embeddings), folder, None)

    def rest(
        self, model: ClusterModel, advance: Callable[[int], None] = lambda rows: None
    ) -> tuple[int, int]:
        """Predict the images that are not in the sample, shard by shard.

        Args:
            advance: called with the number of images of each shard.

        Returns:
            How many they are, and how many of them are in "other".
        """
        if self._least_left is None:
            return 0, 0
        images = other = 0
        for shard in iter_embeddings(self.folder):
            left = np.flatnonzero(_hashes(shard.ids) >= np.uint64(self._least_left))
            if len(left):
                labels = model.predict(shard.vectors[left], encoder=shard.identity).labels
                images, other = images + len(left), other + int((labels == OTHER).sum())
            advance(len(shard))
        return images, other


def read_sample(folder: Path, max_train: int, test_fraction: float) -> Sample:
    """Read as many images as may be trained on and held out; all, where the folder has no more.

    Raises:
        FitError: they would not fit into memory; nothing was read yet.
        EmbeddingsError: there are no embeddings, or they cannot be read.
    """
    folder = Path(folder)
    wanted = math.ceil(max_train / (1 - min(test_fraction, 0.9)))
    found = shards(folder)
    total = sum(pq.read_metadata(shard).num_rows for shard in found) if found else 0
    _check_memory(found, min(total, wanted), max_train)
    if total <= wanted:
        return Sample.whole(concat(list(iter_embeddings(folder))), folder)
    hashes = np.concatenate(
        [_hashes(pq.read_table(shard, columns=["id"])["id"].to_pylist()) for shard in found]
    )
    least_left = np.partition(hashes, wanted)[wanted]
    parts = [
        take(shard, np.flatnonzero(_hashes(shard.ids) < least_left)) for shard in iter_embeddings(folder)
    ]
    return Sample(concat(parts), total, folder, int(least_left))


def _hashes(ids: Iterable[str]) -> npt.NDArray[np.uint64]:
    return np.frombuffer(b"".join(hashlib.blake2b(i.encode(), digest_size=8).digest() for i in ids), "<u8")


def _check_memory(found: list[Path], rows: int, max_train: int) -> None:
    there = available_memory()
    if not found or there is None:
        return
    dim = pq.read_schema(found[0]).field("embedding").type.list_size
    needed = rows * (COPIES * dim + LISTS)
    if needed > there:
        raise FitError(
            f"reading {rows} embeddings of {dim} numbers needs about {needed / 1e9:.1f} GB of memory, "
            f"{there / 1e9:.1f} GB are there: train on fewer (max_train, now {max_train})"
        )
