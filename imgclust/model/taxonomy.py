"""Which cluster of a new fit is which cluster of the model before it, so that numbers go on meaning the same.

Each model says of the other's training images where they belong. A cluster of one is a cluster of the other
if more than half of the images that either holds are in both; all others are new, and get numbers that no
cluster of the taxonomy has had. Why so: docs/decisions/0026-continuing-a-taxonomy.md. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.errors import ModelError
from imgclust.types import OTHER, Ints

Counts = npt.NDArray[np.int64]

# of either's training images, at most: of a cluster of 0.5 %, as small as they get in large fits, a hundred
COMPARED = 20_000
# see docs/decisions/0028-numbers-keep-their-meaning.md
MOVED, RETIRED = 0.5, 0.0  # meanings below which a number is warned of, and given up
WORTH_A_WORD = 0.25  # of a cluster's images; smaller parts that came from or went to another are not told
MOST = 0.5  # of a cluster: its images are in one other, not in parts

Part = tuple[int, float]
Shared = tuple[Counts, Counts]  # of `contingency`, over the previous model's images and over the new one's


@dataclasses.dataclass(frozen=True, slots=True)
class Continued:
    """A cluster of the new model.

    Attributes:
        number: in the taxonomy.
        size: training images in it.
        overlap: with the cluster of the same number before, 0.5..1; see `overlaps`. None: the cluster is new.
        before: how many training images that one had; None: the cluster is new.
        came: (cluster, share): where the previous model puts its images, the largest part first; -1 is
            "other". A quarter of them at least, and not the cluster of the same number.
        meaning: how much its images still are what its number was first given to: 1 as much as those, 0 or
            less not at all; see `imgclust.model.meaning`. None: it is new, or not known.
    """

    number: int
    size: int
    overlap: float | None
    before: int | None
    came: tuple[Part, ...]
    meaning: float | None = None

    @property
    def has_moved(self) -> bool:
        """Whether its images are so far from the first ones that people should look at them."""
        return self.meaning is not None and self.meaning < MOVED


@dataclasses.dataclass(frozen=True, slots=True)
class Retired:
    """A cluster of the previous model that the new one does not have.

    Attributes:
        size: training images that it had.
        went: (cluster, share): where the new model puts its images; as `Continued.came`.
    """

    number: int
    name: str | None
    size: int
    went: tuple[Part, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Continuation:
    """How a model continues a taxonomy.

    Attributes:
        previous: the version of the model before.
        images: that were compared, of both.
        clusters: those of the new model, in the order in which its fit found them.
        retired: by number.
    """

    previous: str
    images: int
    clusters: tuple[Continued, ...]
    retired: tuple[Retired, ...]

    @property
    def numbers(self) -> list[int]:
        """The numbers of the new model's clusters, in the order in which its fit found them."""
        return [cluster.number for cluster in self.clusters]

    @property
    def kept(self) -> list[Continued]:
        """Clusters of both models, by number."""
        return sorted((c for c in self.clusters if c.overlap is not None), key=lambda c: c.number)

    @property
    def new(self) -> list[Continued]:
        """Clusters that the previous model did not have, by number."""
        return sorted((c for c in self.clusters if c.overlap is None), key=lambda c: c.number)

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types; `from_dict` reads it."""
        return {
            "previous": self.previous,
            "images": self.images,
            "clusters": [_with_lists(cluster, "came") for cluster in self.clusters],
            "retired": [_with_lists(cluster, "went") for cluster in self.retired],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Continuation:
        """Raises ModelError for what `to_dict` did not write."""
        try:
            return cls(
                str(data["previous"]),
                int(data["images"]),
                tuple(
                    Continued(
                        int(c["number"]),
                        int(c["size"]),
                        None if c["overlap"] is None else float(c["overlap"]),
                        None if c["before"] is None else int(c["before"]),
                        _parts(c["came"]),
                        None if c.get("meaning") is None else float(c["meaning"]),
                    )
                    for c in data["clusters"]
                ),
                tuple(
                    Retired(
                        int(c["number"]),
                        None if c["name"] is None else str(c["name"]),
                        int(c["size"]),
                        _parts(c["went"]),
                    )
                    for c in data["retired"]
                ),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(
                f"the model's record of how it continues its taxonomy is damaged ({type(error).__name__})"
            ) from None


def _with_lists(cluster: Continued | Retired, parts: str) -> dict[str, Any]:
    return {**dataclasses.asdict(cluster), parts: [list(part) for part in getattr(cluster, parts)]}


def _parts(value: Any) -> tuple[Part, ...]:
    return tuple((int(cluster), float(share)) for cluster, share in value)


def contingency(before: Ints, after: Ints, clusters: tuple[int, int]) -> Counts:
    """How many images each pair of clusters shares.

    Args:
        before, after: int32 (n,); labels 0..k-1 of the same images by the previous and the new model; -1 is
            "other".
        clusters: how many either has.

    Returns:
        int64 (k before + 1, k after + 1), "other" last.
    """
    rows, columns = (count + 1 for count in clusters)
    place = np.where(before < 0, rows - 1, before).astype(np.int64) * columns
    place += np.where(after < 0, columns - 1, after)
    return np.bincount(place, minlength=rows * columns).reshape(rows, columns)


def overlaps(shared: Shared) -> npt.NDArray[np.float64]:
    """The mean Jaccard index of each pair of clusters.

    Over the previous model's images and over the new one's, each time of those that both models put in a
    cluster: of the images that either cluster holds, how many are in both.

    Returns:
        float64 (k before, k after), 0..1.
    """
    indexes = [both / union for both, union in map(_both_and_union, shared)]
    return np.asarray((indexes[0] + indexes[1]) / 2)


def _both_and_union(shared: Counts) -> tuple[Counts, Counts]:
    both = shared[:-1, :-1]
    union = both.sum(axis=1, keepdims=True) + both.sum(axis=0) - both
    return both, np.maximum(union, 1)


def match(shared: Shared) -> Ints:
    """Which previous cluster each new cluster is.

    Two clusters are the same if their overlap exceeds a half (below, Hennig calls a cluster dissolved:
    "Cluster-wise assessment of cluster stability", 2007), and if of either's own images at least two fifths
    are in some cluster of the other model: where most of it is "other" there, the little that is shared says
    nothing of the rest. For one cluster and two others the overlaps add up to 1 at most, so this is one to
    one, without ties, and no assignment problem is left to solve.

    Returns:
        int32 (k after,): 0..k before - 1, or -1: a new cluster.
    """
    (one, one_of), (two, two_of) = map(_both_and_union, shared)
    same = one * two_of + two * one_of > one_of * two_of  # the mean exceeds 1/2, in whole numbers
    of_previous, of_new = shared
    same &= 5 * one.sum(axis=1, keepdims=True) >= 2 * of_previous[:-1].sum(axis=1, keepdims=True)
    same &= 5 * two.sum(axis=0) >= 2 * of_new[:, :-1].sum(axis=0)
    old, new = np.nonzero(same)
    found = np.full(same.shape[1], -1, np.int32)
    found[new] = old
    return found


def numbered(matched: Ints, sizes: Sequence[int], previous: Sequence[int], following: int) -> list[int]:
    """The numbers of new clusters: those of their matches, or ones never used before, the largest first.

    Args:
        matched: of `match`.
        sizes: of the new clusters.
        previous: numbers of the previous clusters.
        following: the first number that the taxonomy has not used.
    """
    fresh = sorted((c for c in range(len(sizes)) if matched[c] < 0), key=lambda c: (-sizes[c], c))
    given = {c: following + i for i, c in enumerate(fresh)}
    return [given[c] if c in given else previous[matched[c]] for c in range(len(sizes))]


def continued(
    shared: Shared,
    sizes: Sequence[int],
    previous: Sequence[Any],
    *,
    following: int,
    version: str,
    meaning: npt.NDArray[np.float64] | None = None,
) -> Continuation:
    """Match the clusters of a new model with those of the one before it, and number them.

    Args:
        shared: over the images of either.
        sizes: training images of the new clusters.
        previous: the previous model's clusters (`imgclust.model.parts.Cluster`), in the order of `shared`.
        following: the first number that its taxonomy has not used.
        version: of the previous model.
        meaning: float64 (k before, k after); how near each new cluster is to what each previous number was
            first given to. Where it is below `RETIRED`, the new cluster gets a number of its own, however
            many images it shares: a number that changes a little each time ends up meaning something else.
    """
    matched, index, (of_previous, of_new) = match(shared), overlaps(shared), shared
    if meaning is not None:
        same = matched >= 0
        same[same] = meaning[matched[same], np.flatnonzero(same)] >= RETIRED
        matched = np.where(same, matched, np.int32(OTHER))
    before = [cluster.id for cluster in previous]
    numbers = numbered(matched, sizes, before, following)
    clusters = []
    for c, (number, size, old) in enumerate(zip(numbers, sizes, matched.tolist(), strict=True)):
        came = tuple(part for part in _shares(of_new[:, c], before) if part[0] != number)
        if old < 0:
            clusters.append(Continued(number, size, None, None, came))
        else:
            overlap = round(float(index[old, c]), 4)
            near = None if meaning is None else round(float(meaning[old, c]), 4)
            clusters.append(Continued(number, size, overlap, previous[old].size, came, near))
    retired = [
        Retired(cluster.id, cluster.name, cluster.size, tuple(_shares(row, numbers)))
        for cluster, row in zip(previous, of_previous[:-1], strict=True)
        if cluster.id not in numbers
    ]
    retired.sort(key=lambda cluster: cluster.number)
    images = int(of_previous.sum() + of_new.sum())
    return Continuation(version, images, tuple(clusters), tuple(retired))


def _shares(counts: Counts, numbers: Sequence[int]) -> list[Part]:
    """(cluster, share) of the larger parts of a row or column, the largest first."""
    total = int(counts.sum())
    order = np.argsort(-counts, kind="stable").tolist()
    named = [*numbers, OTHER]
    return [
        (named[i], round(int(counts[i]) / total, 4))
        for i in order
        if total and counts[i] >= WORTH_A_WORD * total
    ]
