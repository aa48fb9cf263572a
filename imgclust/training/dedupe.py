"""Exact and near duplicates: each joins the image that is kept, and never another duplicate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from imgclust.images.perceptual import Hashes, may_be_same
from imgclust.support.machine import available_cores
from imgclust.types import Bools, Floats

Rows = npt.NDArray[np.int64]

NEAR = 0.98  # cosine; re-encoded, resized and lightly cropped copies of one picture lie above it
BLOCK = 2048  # rows taken at once; their float32 products with twice as many kept rows are 34 MB a thread
ALL_PAIRS = 50_000  # rows up to which every kept one is compared; beyond, those of the nearest cells
PROBES = 8  # cells in which a row looks for its like; see docs/decisions/0024-near-duplicates-at-scale.md


@dataclasses.dataclass(frozen=True, slots=True)
class Duplicates:
    """Which rows are kept, and which join them.

    Attributes:
        kept: int64 (k,); rows that are kept, ascending.
        duplicate: int64 (m,); rows that are not, ascending. k + m = n.
        original: int64 (m,); the kept row that each duplicate joins.
        cosine: float32 (m,); between a duplicate and its original.
        exact: bool (m,); the file is equal byte for byte to one that was met before.
    """

    kept: Rows
    duplicate: Rows
    original: Rows
    cosine: Floats
    exact: Bools

    def __len__(self) -> int:
        return len(self.duplicate)

    def representative(self) -> Rows:
        """int64 (n,): for every row the kept row that stands for it (itself, if it is kept)."""
        rows = np.arange(len(self.kept) + len(self.duplicate))
        rows[self.duplicate] = self.original
        return rows

    def renumbered(self, numbers: Rows) -> Duplicates:
        """The same rows by other numbers: row i is `numbers[i]`."""
        duplicate = numbers[self.duplicate]
        order = np.argsort(duplicate)
        return Duplicates(
            kept=np.sort(numbers[self.kept]),
            duplicate=duplicate[order],
            original=numbers[self.original][order],
            cosine=self.cosine[order],
            exact=self.exact[order],
        )


def find_duplicates(
    embeddings: Floats | Callable[[Rows], Floats],
    digests: Sequence[str | None] | None = None,
    *,
    hashes: Hashes | None = None,
    threshold: float = NEAR,
    progress: Callable[[float], None] | None = None,
) -> Duplicates:
    """Find rows that show the same picture as an earlier row.

    Near duplicates are near in two ways: the cosine of what the encoder saw, a crop of the picture, and the
    perceptual hash of all of it, where both hashes are known.

    Rows are taken in order. One whose digest was met before joins what that row joined; one within
    `threshold` of rows that are kept joins the nearest of these (the earliest, if several are equally near);
    every other is kept. So a duplicate is always within the threshold of the image it joins, and a chain of
    small changes does not pull different pictures together. Beyond 50,000 rows a row is compared with the
    kept ones of its nearest cells only, which finds nearly all duplicates.

    Args:
        embeddings: float32 (n, d), unit-norm rows; or what reads those of some numbers, ascending, which is
            asked once at most, and only for different files.
        digests: SHA-256 of each file; None where it is not known. To be given where embeddings are read.
        hashes: uint64 (n,); perceptual hashes of the whole pictures, 0 where one is not known.
        threshold: cosine from which two rows are the same picture; above 1, only digests count.
        progress: called with the share that is done, 0..1.

    Raises:
        ValueError: a threshold that is not above 0.
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be a cosine above 0, is {threshold}")
    first = _first_of_digest(digests, len(digests or ()) if callable(embeddings) else len(embeddings))
    unique = np.flatnonzero(first == np.arange(len(first)))
    whole = np.zeros(len(first), np.uint64) if hashes is None else np.asarray(hashes, np.uint64)
    leader, cosine = np.arange(len(unique)), np.ones(len(unique), np.float32)
    if threshold <= 1 and len(unique):
        if callable(embeddings):
            embeddings = embeddings(unique)
        elif len(unique) < len(first):
            embeddings = embeddings[unique]
        leader, cosine = _leaders(embeddings, whole[unique], threshold, progress)
    original, cosines = unique[leader], np.ones(len(first), np.float32)
    owner = first.copy()
    owner[unique] = original
    owner = owner[first]
    cosines[unique] = cosine
    cosines = cosines[first]
    duplicate = np.flatnonzero(owner != np.arange(len(owner)))
    return Duplicates(
        kept=np.flatnonzero(owner == np.arange(len(owner))),
        duplicate=duplicate,
        original=owner[duplicate],
        cosine=cosines[duplicate],
        exact=first[duplicate] != duplicate,
    )


def _first_of_digest(digests: Sequence[str | None] | None, n: int) -> Rows:
    """For every row the first row with the same digest (itself, where there is none)."""
    first = np.arange(n)
    if digests is None:
        return first
    seen: dict[str, int] = {}
    for row, digest in enumerate(digests):
        if digest:
            first[row] = seen.setdefault(digest, row)
    return first


def _leaders(
    embeddings: Floats, hashes: Hashes, threshold: float, progress: Callable[[float], None] | None
) -> tuple[Rows, Floats]:
    """For every row the kept row that it joins (itself, if it is kept) and their cosine."""
    n = len(embeddings)
    leader, cosine = np.arange(n), np.ones(n, np.float32)
    kept = _Cells(embeddings) if n > ALL_PAIRS else _All(n)
    with _own_threads() as pool:
        for start in range(0, n, BLOCK):
            rows = np.arange(start, min(start + BLOCK, n))
            best = partial(_best, embeddings, hashes, threshold)
            for some, original, value in pool.map(best, *zip(*kept.near(rows), strict=True)):
                better = (value >= threshold) & ((leader[some] == some) | (value > cosine[some]))
                leader[some[better]], cosine[some[better]] = original[better], value[better]
            kept.add(_join_within(embeddings, hashes, rows, threshold, leader, cosine))
            if progress:
                progress((start + len(rows)) / n)
    return leader, cosine


@contextmanager
def _own_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for products of a few hundred rows, each of which BLAS computes in the thread that asks.

    BLAS divides even small products among threads of its own, which wait for each other spinning: seven
    times the processor time, on a busy machine five times the time.
    """
    with ThreadPoolExecutor(available_cores(), "imgclust-near") as pool, threadpool_limits(1, "blas"):
        yield pool


class _All:
    """Kept rows, all of which are near enough to be compared."""

    def __init__(self, n: int) -> None:
        self._rows, self._count = np.empty(n, np.int64), 0

    def near(self, rows: Rows) -> Iterator[tuple[Rows, Rows]]:
        kept = self._rows[: self._count]
        for start in range(0, len(kept), 2 * BLOCK):
            yield rows, kept[start : start + 2 * BLOCK]

    def add(self, rows: Rows) -> None:
        self._rows[self._count : self._count + len(rows)] = rows
        self._count += len(rows)


class _Cells:
    """Kept rows by the k-means cell that they lie in: an inverted file of √n cells."""

    def __init__(self, embeddings: Floats) -> None:
        from sklearn.cluster import MiniBatchKMeans

        n = len(embeddings)
        count = round(n**0.5)
        sample = np.random.default_rng(0).permutation(n)[: 64 * count]
        means = MiniBatchKMeans(count, init="random", n_init=1, batch_size=4096, max_iter=5, random_state=0)
        self._embeddings = embeddings
        self._centres = means.fit(embeddings[sample]).cluster_centers_.astype(np.float32)
        self._norms = (self._centres**2).sum(axis=1)
        self._kept: list[list[Rows]] = [[] for _ in range(count)]
        self._home = np.empty(n, np.int32)

    def near(self, rows: Rows) -> Iterator[tuple[Rows, Rows]]:
        """Rows and the kept rows of a cell near to them, cell by cell."""
        probes = min(PROBES, len(self._kept))
        distances = self._norms - 2 * self._embeddings[rows] @ self._centres.T
        self._home[rows] = distances.argmin(axis=1)
        nearest = np.argpartition(distances, probes - 1, axis=1)[:, :probes]
        order = np.argsort(nearest, axis=None, kind="stable")
        cells, starts = np.unique(nearest.ravel()[order], return_index=True)
        for cell, some in zip(cells, np.split(order // probes, starts[1:]), strict=True):
            if self._kept[cell]:
                self._kept[cell] = [np.concatenate(self._kept[cell])]
                yield rows[some], self._kept[cell][0]

    def add(self, rows: Rows) -> None:
        for row, cell in zip(rows, self._home[rows], strict=True):
            self._kept[cell].append(np.array([row]))


def _best(
    embeddings: Floats, hashes: Hashes, threshold: float, rows: Rows, kept: Rows
) -> tuple[Rows, Rows, Floats]:
    """Rows, the nearest kept row to each that may show the same picture, and their cosine."""
    products = np.minimum(embeddings[rows] @ embeddings[kept].T, 1)  # float16 rows are a little longer than 1
    _refuse_other_pictures(products, hashes[rows], hashes[kept], threshold)
    best = products.argmax(axis=1)
    return rows, kept[best], products[np.arange(len(rows)), best]


def _refuse_other_pictures(products: Floats, rows: Hashes, columns: Hashes, threshold: float) -> None:
    """Cosines of pairs whose whole pictures differ become −1."""
    if not (rows.any() and columns.any()):
        return
    first, second = np.nonzero(products >= threshold)
    other = ~may_be_same(rows[first], columns[second])
    products[first[other], second[other]] = -1


def _join_within(
    embeddings: Floats, hashes: Hashes, rows: Rows, threshold: float, leader: Rows, cosine: Floats
) -> Rows:
    """Compare the rows of a block with each other, in order; return those that are kept."""
    block = embeddings[rows]
    near = np.tril(np.minimum(block @ block.T, 1), -1)
    _refuse_other_pictures(near, hashes[rows], hashes[rows], threshold)
    near[near < threshold] = 0
    free = leader[rows] == rows
    for i in np.flatnonzero(near.any(axis=1)):
        candidates = np.where(free[:i], near[i, :i], 0)
        best = int(candidates.argmax())
        value = candidates[best]
        if value > 0 and (free[i] or value > cosine[rows[i]]):
            leader[rows[i]], cosine[rows[i]], free[i] = rows[best], value, False
    kept: Rows = rows[free]
    return kept
