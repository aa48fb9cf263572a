"""What pushes a new point: the mean force of one negative sample, over all training points.

UMAP draws negative samples at random; their mean is a sum over the whole frozen embedding. Far boxes of the
k-d tree count as one soft point (Barnes and Hut, 1986), near ones point by point, with UMAP's clipping.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.predictor import exact
from imgclust.predictor.kdtree import Array, KDTree, descend

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
Put = Callable[[npt.NDArray[Any]], Any]


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
        put: takes arrays to where points will be.
    """

    def __init__(self, tree: KDTree, table: Singles, push: float, put: Put = np.asarray) -> None:
        self._depth = tree.depth
        self._table = put(table)
        care = min(1.0, _USUAL_PUSH / push) if push > 0.0 else 1.0
        self._opening, self._negligible = _OPENING * _OPENING * care, _NEGLIGIBLE * care
        boxes = [tree.box(level) for level in range(tree.depth + 1)]
        self._levels = [tuple(put(part) for part in (*box, _entries(*box))) for box in boxes]
        places, shares = tree.leaf_points()
        self._sizes = (shares > 0).sum(1, dtype=np.int32)
        self._leaves = put(np.concatenate([places, np.zeros_like(shares)[None], shares[None]]))

    def tables(self) -> dict[str, Any]:
        """What `kernels/umap_transform.c` reads of it; the boxes of all levels follow each other."""
        means, variances, shares, entries = (
            np.concatenate(part, axis=-1) for part in zip(*self._levels, strict=True)
        )
        return {
            "n": int(self._sizes.sum()), "dim": len(means), "depth": self._depth,
            "width": self._leaves.shape[2], "start_level": min(_START, self._depth), "repulsion": self._table,
            "repulsion_size": len(self._table), "means": means.T, "variances": variances, "shares": shares,
            "entries": entries.T, "leaves": self._leaves.swapaxes(0, 1), "leaf_sizes": self._sizes,
            "opening": self._opening, "negligible": self._negligible, "roughly": _ROUGHLY,
        }  # fmt: skip

    def sources(self, points: Any, *, roughly: bool = False) -> Sources:
        """The entries that matter to each point, and to all places near it.

        Args:
            points: float64 (m, d).
            roughly: fewer entries, for a point that still moves far.
        """
        care = _ROUGHLY if roughly else 1.0
        opening, negligible = self._opening * care, self._negligible * care
        found: list[tuple[Any, Any]] = []

        def near(level: int, query: Any, node: Any) -> Any:
            means, variances, shares, entries = self._levels[level]
            gap = exact.squared_lengths((exact.pick(points.T, query) - exact.pick(means, node))[None])[0]
            spread = exact.pick(variances, node)
            far = spread <= gap * opening
            far |= exact.pick(shares, node) * spread <= negligible * (gap + spread)
            found.append((exact.keep(query, far), exact.pick(entries, exact.keep(node, far))))
            return ~far

        query, node = descend(points, min(_START, self._depth), self._depth, near)
        leaves = self._leaves.take(node, axis=1) if isinstance(node, np.ndarray) else self._leaves[:, node]
        found.append((exact.repeat(query, leaves.shape[2]), leaves.reshape(len(leaves), -1)))
        return _columns(len(points), found)

    def force(self, points: Any, sources: Sources) -> Any:
        """Mean clipped force of one negative sample, float32 (d, m).

        Args:
            points: float32 (d, m).
        """
        forces = points - sources.places
        squares = exact.squared_lengths(forces) + sources.softening
        forces *= exact.lookup(self._table, squares)[:, None]
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


def _columns(m: int, found: list[tuple[Any, Any]]) -> Sources:
    xp = exact.module(found[0][0])
    query = xp.concatenate([part for part, _ in found])
    entries = xp.concatenate([part for _, part in found], 1)
    real = xp.where(entries[-1] > 0)[0]
    # stable: each point's entries stay in the order of the walk
    order = exact.pick(real, xp.argsort(exact.pick(query, real), stable=True))
    query, entries = exact.pick(query, order), exact.pick(entries, order)
    counts = xp.bincount(query, minlength=m)
    height = -(-int(counts.max()) // _GROUP) * _GROUP
    row = exact.arange(len(query), query) - exact.pick(counts.cumsum(0) - counts, query)
    table = exact.zeros((len(entries), height * m), query)
    for axis, values in zip(table, entries, strict=True):
        axis[row * m + query] = values
    table = table.reshape(-1, height, m)
    return Sources(table[:-2].swapaxes(0, 1), table[-2], table[-1])
