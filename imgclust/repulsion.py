"""What pushes a new point: the mean force of one negative sample, over all training points.

UMAP draws negative samples at random; their mean is a sum over the whole frozen embedding. Far boxes of the k-d
tree count as one point of their mass (Barnes and Hut, 1986), near ones point by point with UMAP's clipping.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust import exact
from imgclust.kdtree import Array, Indices, KDTree

CLIP = 4.0  # UMAP's bound on each coordinate of a force
_OPENING = 0.4  # a box counts as one point when its radius is below this share of its distance
_START = 3  # the walk begins with the boxes of this level
_GROUP = 64  # entries of a list are summed in groups of so many, so that empty ones at its end change nothing

Singles = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Sources:
    """What pushes each of m points: columns of places and weights, padded with weight 0.

    Attributes:
        places: float32 (d, entries, m); `entries` is a multiple of `_GROUP`.
        weights: float32 (entries, m); the shares of the training points that each stands for.
    """

    places: Singles
    weights: Singles


class Repulsion:
    """The field of a frozen embedding.

    Args:
        tree: over the training points.
        table: float32, the force's coefficient as a function of the squared distance; see `exact.table`.
    """

    def __init__(self, tree: KDTree, table: Singles) -> None:
        self._tree = tree
        self._table = table
        self._boxes = [tree.box(level) for level in range(tree.depth + 1)]

    def sources(self, points: Array) -> Sources:
        """The entries that matter to each point, and to all places near it.

        Args:
            points: float64 (m, d).
        """
        query = np.repeat(np.arange(len(points)), 2 ** min(_START, self._tree.depth))
        node = np.tile(np.arange(2 ** min(_START, self._tree.depth)), len(points))
        level = min(_START, self._tree.depth)
        found: list[tuple[Indices, Singles, Singles]] = []
        while True:
            centres, radii, masses = self._boxes[level]
            gap = np.zeros(len(query))
            for axis in range(self._tree.dim):
                difference = points[query, axis] - centres[axis, node]
                gap += difference * difference
            far = radii[node] <= gap * (_OPENING * _OPENING)
            found.append((query[far], centres[:, node[far]], masses[node[far]]))
            query, node = query[~far], node[~far]
            if level == self._tree.depth:
                break
            level += 1
            query, node = np.repeat(query, 2), np.repeat(2 * node, 2)
            node[1::2] += 1
        places, weights = self._tree.leaf_points(node)
        found.append((np.repeat(query, places.shape[2]), places.reshape(len(places), -1), weights.ravel()))
        return _columns(len(points), found)

    def force(self, points: Singles, sources: Sources) -> Singles:
        """Mean clipped force of one negative sample, float32 (d, m).

        Args:
            points: float32 (d, m).
        """
        differences = points[:, None, :] - sources.places
        squares = differences[0] * differences[0]
        for difference in differences[1:]:
            squares += difference * difference
        coefficients = exact.lookup(self._table, squares)
        total = np.empty_like(points)
        for axis, difference in enumerate(differences):
            difference *= coefficients
            np.clip(difference, -CLIP, CLIP, out=difference)
            difference *= sources.weights
            total[axis] = _grouped_sum(difference)
        return total


def _grouped_sum(x: Singles) -> Any:
    """Sum over the first axis, a multiple of `_GROUP`: group upon group, then within; zeros at the end change nothing."""
    total = x[:_GROUP]
    for start in range(_GROUP, len(x), _GROUP):
        total += x[start : start + _GROUP]
    return exact.ordered_sum(total)


def _columns(m: int, found: list[tuple[Indices, Singles, Singles]]) -> Sources:
    query = np.concatenate([part for part, _, _ in found])
    order = np.argsort(query, kind="stable")
    query = query[order]
    places = np.concatenate([part for _, part, _ in found], axis=1)[:, order]
    weights = np.concatenate([part for _, _, part in found])[order]
    real = weights > 0
    query, places, weights = query[real], places[:, real], weights[real]
    counts = np.bincount(query, minlength=m)
    entries = -(-int(counts.max()) // _GROUP) * _GROUP
    row = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    out = np.zeros((len(places), entries, m), dtype=np.float32)
    out[:, row, query] = places
    shares = np.zeros((entries, m), dtype=np.float32)
    shares[row, query] = weights
    return Sources(out, shares)
