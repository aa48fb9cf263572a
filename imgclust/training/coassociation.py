"""What fits on samples of the images say together: who belongs with whom, and the clusters that follow.

The co-association of two images is the share of the refits with both in which they are in the same cluster
(Fred and Jain, "Combining multiple clusterings using evidence accumulation", 2005). Average linkage makes
clusters of it. One layout is a matter of chance, these clusters much less so, and the final layout keeps to
them: see docs/decisions/0027-steady-clusters.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage

from imgclust.training.dedupe import Rows
from imgclust.types import OTHER, Floats, Ints

TOGETHER = 0.3  # mean co-association from which on two groups of images are one cluster
APART = 0.1  # what is left of an edge of UMAP's graph between images that are not together
LINKED = 10_000  # images that are linked, at most: 400 MB for all pairs of them, and as much for a copy
_AT_ONCE = 256  # rows of the matrix of all pairs: bounds the memory beside it

Floats64 = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Refit:
    """A fit on some of n images.

    Attributes:
        rows: int64 (m,), ascending; those that it was fitted on.
        labels: int32 (m,); its clusters, counted from 0; -1 is "other".
        tree: its condensed tree, as hdbscan has it.
    """

    rows: Rows
    labels: Ints
    tree: npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Refits:
    """Fits on samples of n images, and what they agree on.

    Attributes:
        labels: int32 (n,); the clusters that they agree on, counted from 0; -1 is "other".
    """

    n: int
    fits: tuple[Refit, ...]
    labels: Ints

    @classmethod
    def of(cls, n: int, fits: Sequence[Refit], least: int) -> Refits:
        """With the clusters of at least so many images that they agree on."""
        return cls(n, tuple(fits), agreed_clusters(n, fits, least))

    def left_of_edges(self, one: Rows | Ints, two: Rows | Ints) -> Floats:
        """float32, of pairs of images: what is left of an edge of UMAP's graph between them.

        All of it where both are in one cluster, or both in "other".
        """
        return np.where(self.labels[one] == self.labels[two], np.float32(1), np.float32(APART))


def agreed_clusters(n: int, fits: Sequence[Refit], least: int) -> Ints:
    """int32 (n,): clusters by average linkage of the co-association; -1 where one has fewer than `least`.

    Of more than `LINKED` images so many are linked, and each of the others goes where most of it would.
    """
    votes = _Votes.of(n, fits)
    rows = np.sort(np.random.default_rng(n).permutation(n)[:LINKED])
    found = fcluster(linkage(votes.apart(rows), "average"), 1 - TOGETHER, "distance") - 1
    large = np.bincount(found) >= least * len(rows) / n
    number = np.where(large, np.cumsum(large) - 1, OTHER)
    labels = np.full(n, OTHER, np.int32)
    labels[rows] = number[found]
    if n > LINKED and large.any():
        rest = np.setdiff1d(np.arange(n), rows)
        labels[rest] = votes.nearest(rest, rows, labels[rows])
    return labels


@dataclasses.dataclass(frozen=True, slots=True)
class _Votes:
    """What refits say of n images; whole numbers, so that products are exact, whatever adds them up.

    Attributes:
        clusters: float32 (n, all clusters of all refits), 0 or 1: which an image is in.
        there: float32 (n, refits), 0 or 1: which have the image.
    """

    clusters: Floats
    there: Floats

    @classmethod
    def of(cls, n: int, fits: Sequence[Refit]) -> _Votes:
        there = np.zeros((n, len(fits)), np.float32)
        clusters = [np.zeros((n, int(fit.labels.max(initial=OTHER)) + 1), np.float32) for fit in fits]
        for number, fit in enumerate(fits):
            there[fit.rows, number] = 1
            some = fit.labels >= 0
            clusters[number][fit.rows[some], fit.labels[some]] = 1
        return cls(np.concatenate(clusters, axis=1), there)

    def together(self, one: Rows, two: Rows) -> Floats:
        """float32 (one, two), 0..1: the co-association; 0 where no refit has both."""
        both = self.there[one] @ self.there[two].T
        return np.asarray((self.clusters[one] @ self.clusters[two].T) / np.maximum(both, 1))

    def apart(self, rows: Rows) -> Floats64:
        """float64, m · (m - 1) / 2 numbers: how often two of m images are not together, in scipy's order."""
        m = len(rows)
        found, end = np.empty(m * (m - 1) // 2), 0
        for first in range(0, m, _AT_ONCE):
            for row, shares in enumerate(self.together(rows[first : first + _AT_ONCE], rows), first):
                start, end = end, end + m - 1 - row
                found[start:end] = 1 - shares[row + 1 :]
        return found

    def nearest(self, rows: Rows, linked: Rows, labels: Ints) -> Ints:
        """int32: of each image the cluster with the largest mean co-association; -1 below `TOGETHER`."""
        members = (labels[:, None] == np.arange(labels.max() + 1)).astype(np.float32)
        members /= members.sum(axis=0)
        found = []
        for first in range(0, len(rows), _AT_ONCE):
            mean = self.together(rows[first : first + _AT_ONCE], linked) @ members
            found.append(np.where(mean.max(axis=1) >= TOGETHER, mean.argmax(axis=1), OTHER))
        return np.concatenate(found).astype(np.int32)
