"""What pushes a new point: the mean force of one negative sample, over all training points.

UMAP draws negative samples at random; their mean is a sum over the whole frozen embedding. Far boxes of the
k-d tree count as one soft point (Barnes and Hut, 1986), near ones point by point, with UMAP's clipping.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.predictor import exact
from imgclust.predictor.kdtree import Array, Indices, KDTree, pairs_with_boxes
from imgclust.predictor.neighbours import ranges

CLIP = 4.0  # UMAP's bound on each coordinate of a force
_OPENING = 0.35  # a box counts as one point when its spread is below this share of its distance,
_NEGLIGIBLE = 2e-4  # or when so small a share of all points, weighted by its relative spread, is at stake;
_USUAL_PUSH = 5.0  # both for umap's default of five negative samples of strength 1, and smaller for more
_SOFTENING = (
    0.5  # share of a box's variance that is added to its squared distance: it is a cloud, not a point
)
_START = 3  # the walk begins with the boxes of this level
_ROUGHLY = 3.0  # how much larger both may be while a point is still far from where it settles
_GROUP = 16  # entries of a list are summed in groups of so many, so that empty ones at its end change nothing

Singles = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Sources:
    """What pushes each of m points: columns of places and weights, padded with weight 0.

    Attributes:
        places: float32 (entries, d, m), laid out axis by axis; `entries` is a multiple of `_GROUP`.
        softening: float32 (entries, m), added to squared distances.
        weights: float32 (entries, m); the shares of the training points that each stands for.
    """

    places: Any
    softening: Any
    weights: Any


class Repulsion:
    """The field of a frozen embedding.

    Args:
        tree: over the training points.
        table: float32, the force's coefficient as a function of the squared distance; see `exact.table`.
        push: negative samples for each pull, times their strength: what an error is multiplied with.
    """

    xp: Any = np

    def __init__(self, tree: KDTree, table: Singles, push: float) -> None:
        self._tree = tree
        self._table = table
        care = min(1.0, _USUAL_PUSH / push) if push > 0.0 else 1.0
        self._opening, self._negligible = _OPENING * _OPENING * care, _NEGLIGIBLE * care
        boxes = [tree.box(level) for level in range(tree.depth + 1)]
        self._levels = [(*box, _entries(*box)) for box in boxes]

    def sources(self, points: Array, *, roughly: bool = False) -> Sources:
        """The entries that matter to each point, and to all places near it.

        Args:
            points: float64 (m, d).
            roughly: fewer entries, for a point that still moves far.
        """
        care = _ROUGHLY if roughly else 1.0
        opening, negligible = self._opening * care, self._negligible * care
        level = min(_START, self._tree.depth)
        query, node = pairs_with_boxes(len(points), level)
        found: list[tuple[Indices, Singles]] = []
        while True:
            means, variances, shares, entries = self._levels[level]
            gap = exact.squared_lengths((points.T.take(query, axis=1) - means.take(node, axis=1))[None])[0]
            spread = variances.take(node)
            far = spread <= gap * opening
            far |= shares.take(node) * spread <= negligible * (gap + spread)
            found.append((query.compress(far), entries.take(node.compress(far), axis=1)))
            query, node = query.compress(~far), node.compress(~far)
            if level == self._tree.depth:
                break
            level += 1
            query, node = query.repeat(2), (2 * node).repeat(2)
            node[1::2] += 1
        places, weights = self._tree.leaf_points(node)
        points_of_leaves = np.concatenate([places, np.zeros_like(weights)[None], weights[None]])
        flat = points_of_leaves.reshape(len(points_of_leaves), -1)
        found.append((query.repeat(weights.shape[1]), flat))
        return _columns(len(points), found)

    def force(self, points: Any, sources: Sources) -> Any:
        """Mean clipped force of one negative sample, float32 (d, m).

        Args:
            points: float32 (d, m).
        """
        forces = points - sources.places
        squares = exact.squared_lengths(forces) + sources.softening
        forces *= exact.lookup(self._table, squares, self.xp)[:, None]
        forces = exact.clip(forces, -CLIP, CLIP)
        forces *= sources.weights[:, None]
        return _grouped_sum(forces)


def _entries(means: Array, variances: Array, shares: Array) -> Singles:
    """Boxes as rows of `Sources`: places, softening and weight; float32 (d + 2, boxes)."""
    return np.concatenate([means, _SOFTENING * variances[None], shares[None]]).astype(np.float32)


def _grouped_sum(x: Any) -> Any:
    """Sum over the first axis, a multiple of `_GROUP`: group upon group, then within; empty groups add 0."""
    if isinstance(x, np.ndarray):
        groups = x.swapaxes(0, 1).reshape(x.shape[1], -1, _GROUP * x.shape[2])
        # one after the other, as the axis that is summed is never the innermost
        within = np.add.reduce(groups, axis=1).reshape(x.shape[1], _GROUP, x.shape[2])
        return exact.ordered_sum(within.swapaxes(0, 1))
    total = x[:_GROUP]
    for start in range(_GROUP, len(x), _GROUP):
        total += x[start : start + _GROUP]
    return exact.ordered_sum(total)


def _columns(m: int, found: list[tuple[Indices, Singles]]) -> Sources:
    query = np.concatenate([part for part, _ in found])
    entries = np.concatenate([part for _, part in found], axis=1)
    real = np.flatnonzero(entries[-1] > 0)
    order = real.take(np.argsort(query.take(real), kind="stable"))
    query, entries = query.take(order), entries.take(order, axis=1)
    counts = np.bincount(query, minlength=m)
    height = -(-int(counts.max()) // _GROUP) * _GROUP
    cell = ranges(0, counts) * m + query
    cells = np.zeros((len(entries), height * m), dtype=np.float32)
    for axis, values in zip(cells, entries, strict=True):
        axis[cell] = values
    table = cells.reshape(-1, height, m)
    return Sources(table[:-2].swapaxes(0, 1), table[-2], table[-1])
