"""Which training points lie near, in the low-dimensional space: a k-d tree, walked for a whole batch at once.

Every step is an elementwise operation on (query, box) pairs, so what is found for a query does not depend on
the queries beside it. Only the order of the points is stored; boxes are computed when it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.predictor import exact

LEAF = 32  # most points in a leaf: smaller leaves waste time on boxes, larger ones on points
_START = 6  # the walk begins with all 2**6 boxes of this level: cheaper than six levels of bookkeeping
_HOME_START = 5  # likewise, for the walk to one leaf
_SLACK = 1.0 + 1e-12  # more than the rounding of a few squares and a sum, so that no point is lost to it

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


def depth(n: int) -> int:
    """How often n points are halved until no part has more than `LEAF`."""
    levels = 0
    while -(-n // 2**levels) > LEAF:
        levels += 1
    return levels


def bounds(n: int, level: int) -> Indices:
    """Where the 2**level parts of n points begin, and n: parts differ by one point at most."""
    edges = np.array([0, n], dtype=np.int64)
    for _ in range(level):
        middle = (edges[:-1] + edges[1:]) // 2
        edges = np.append(np.stack([edges[:-1], middle], 1).ravel(), n)
    return edges


def build_order(points: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Order points so that each part of each level is a box: halved across its widest side, again and again.

    Args:
        points: float32 (n, d).

    Returns:
        int32 (n,): the row of `points` at each place of the tree.
    """
    n = len(points)
    order = np.arange(n, dtype=np.int32)
    for level in range(depth(n)):
        edges, halves = bounds(n, level), bounds(n, level + 1)
        for start, middle, stop in zip(edges[:-1], halves[1::2], edges[1:], strict=True):
            part = points[order[start:stop]]
            widest = int(np.argmax(part.max(0) - part.min(0)))
            split = np.argpartition(part[:, widest], middle - start, kind="introselect")
            order[start:stop] = order[start:stop][split]
    return order


def pairs_with_boxes(queries: Any, level: int) -> tuple[Any, Any]:
    """Each query with each box of a level: their numbers, int64 (queries × 2**level,), where `queries` is."""
    boxes, m = 2**level, len(queries)
    return exact.repeat(exact.arange(m, queries), boxes), exact.arange(m * boxes, queries) & (boxes - 1)


def descend(queries: Any, level: int, depth: int, goes_on: Callable[[int, Any, Any], Any]) -> tuple[Any, Any]:
    """Walk down a tree of halved boxes for all queries at once, on numpy arrays and torch tensors alike.

    Args:
        queries: one row for each.
        level, depth: where the walk begins, and the leaves' level.
        goes_on: level, queries and boxes (pairs,) → bool (pairs,): which pairs are looked at more closely.

    Returns:
        The pairs of a query and a leaf that are left: int64 (pairs,), ordered by query.
    """
    query, node = pairs_with_boxes(queries, level)
    while True:
        some = goes_on(level, query, node)
        query, node = exact.keep(query, some), exact.keep(node, some)
        if level == depth:
            return query, node
        level += 1
        query, node = exact.repeat(query, 2), exact.repeat(2 * node, 2)
        node[1::2] += 1


class KDTree:
    """Points near a query, within a radius given for each query.

    Attributes:
        step: what a radius of 0, where points repeat, grows by: a millionth of the tree's widest side.

    Args:
        points: float32 (n, d), n ≥ 1.
        order: int32 (n,), from `build_order` of the same points.
    """

    def __init__(self, points: npt.NDArray[np.float32], order: npt.NDArray[np.int32]) -> None:
        self.n, self.dim = points.shape
        self.depth = depth(self.n)
        edges = bounds(self.n, self.depth)
        width = int(np.diff(edges).max())
        place = edges[:-1, None] + np.arange(width)
        self._sorted = points[order].T
        self._missing = place >= edges[1:, None]
        self.rows = order[np.minimum(place, self.n - 1)].astype(np.int64)  # (leaves, width)
        # (d, leaves, width)
        self._leaf_points = np.ascontiguousarray(points[self.rows].transpose(2, 0, 1), dtype=np.float64)
        self._low = [np.where(self._missing, np.inf, self._leaf_points).min(2)]
        self._high = [np.where(self._missing, -np.inf, self._leaf_points).max(2)]
        self._leaf_points[:, self._missing] = np.inf  # far from everything
        for _ in range(self.depth):
            self._low.insert(0, np.minimum(self._low[0][:, 0::2], self._low[0][:, 1::2]))
            self._high.insert(0, np.maximum(self._high[0][:, 0::2], self._high[0][:, 1::2]))
        self.step = float((self._high[0] - self._low[0]).max()) * 2.0**-20 + np.finfo(np.float64).tiny

    def tables(self) -> dict[str, Any]:
        """What `kernels/condensed_tree.c` reads of it; the boxes of all levels follow each other."""
        return {
            "n": self.n, "dim": self.dim, "depth": self.depth, "width": self.rows.shape[1], "rows": self.rows,
            "low": np.concatenate(self._low, axis=1).T, "high": np.concatenate(self._high, axis=1).T,
            "leaf_points": self._leaf_points.swapaxes(0, 1),
        }  # fmt: skip

    def within(self, queries: Array, radius: Array) -> tuple[Indices, Indices, Array]:
        """All pairs of a query and a point no farther than its radius.

        Args:
            queries: float64 (m, d).
            radius: float64 (m,).

        Returns:
            The query's number, the point's row, both int64 (pairs,), and their distance, float64 (pairs,);
            ordered by query.
        """
        query, leaf = self._leaves(queries, radius)
        squares = self._squares(queries, query, leaf)
        # roots cost more than what a little too large a square lets in
        found = np.flatnonzero(squares <= ((radius * radius) * _SLACK).take(query)[:, None])
        distance = np.sqrt(squares.ravel().take(found))
        width = squares.shape[1]
        pair = found // width
        row = self.rows.ravel().take(leaf.take(pair) * width + (found - pair * width))
        query = query.take(pair)
        near = distance <= radius.take(query)
        if near.all():
            return query, row, distance
        return query.compress(near), row.compress(near), distance.compress(near)

    def home(self, queries: Array) -> tuple[Indices, Array]:
        """The points of the leaf whose box is nearest: a first guess at what is near.

        Returns:
            Rows, int64 (m, width), and distances, float64 (m, width), infinite where a leaf has fewer points.
        """
        everyone = np.arange(len(queries))
        level = min(_HOME_START, self.depth)
        gaps = self._gap(level, queries, *pairs_with_boxes(queries, level))
        node = gaps.reshape(len(queries), -1).argmin(1)
        twice = np.tile(everyone, 2)
        for below in range(level + 1, self.depth + 1):
            halves = np.concatenate([2 * node, 2 * node + 1])
            gaps = self._gap(below, queries, twice, halves)
            node = 2 * node + (gaps[len(node) :] < gaps[: len(node)])
        return self.rows[node], np.sqrt(self._squares(queries, everyone, node))

    def box(self, level: int) -> tuple[Array, Array, Array]:
        """A level's boxes: means (d, boxes), variances around them and shares of all points, (boxes,)."""
        edges = bounds(self.n, level)
        sizes = np.diff(edges)
        points = self._sorted.astype(np.float64)
        means = np.add.reduceat(points, edges[:-1], axis=1) / sizes
        gaps = points - np.repeat(means, sizes, axis=1)
        variances = (np.add.reduceat(gaps * gaps, edges[:-1], axis=1) / sizes).sum(0)
        return means, variances, sizes / self.n

    def leaf_points(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Points of all leaves, float32 (d, leaves, width), and their shares of all points, 0 where there is
        none."""
        shares = np.where(self._missing, np.float32(0), np.float32(1 / self.n))
        return self._leaf_points.astype(np.float32), shares

    def _leaves(self, queries: Array, radius: Array) -> tuple[Indices, Indices]:
        reach = (radius * radius) * _SLACK

        def near(level: int, query: Indices, node: Indices) -> npt.NDArray[np.bool_]:
            return self._gap(level, queries, query, node) <= reach.take(query)

        return descend(queries, min(_START, self.depth), self.depth, near)

    def _gap(self, level: int, queries: Array, query: Indices, node: Indices) -> Array:
        """Squared distances between queries and boxes, float64 (pairs,); 0 inside."""
        x = queries.T.take(query, axis=1)
        low, high = self._low[level].take(node, axis=1), self._high[level].take(node, axis=1)
        outside = np.maximum(low - x, x - high)
        return np.asarray(exact.squared_lengths(np.maximum(outside, 0.0)[None])[0])

    def _squares(self, queries: Array, query: Indices, leaf: Indices) -> Array:
        """Squared distances to all points of leaves, float64 (pairs, width); axis by axis, as in hdbscan."""
        total = np.zeros((len(query), self.rows.shape[1]))
        gap = np.empty_like(total)
        for places, x in zip(self._leaf_points, queries.T, strict=True):
            places.take(leaf, axis=0, out=gap, mode="clip")  # without a mode, numpy would copy once more
            np.subtract(x.take(query)[:, None], gap, out=gap)
            gap *= gap
            total += gap
        return total
