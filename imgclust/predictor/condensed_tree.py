"""Low-dimensional point → cluster: what `hdbscan.approximate_predict` answers, for a whole batch at once.

A new point joins the tree where its nearest neighbour by mutual reachability is, at the density at which the
two meet; its cluster is the selected one above that place. hdbscan asks its k-d tree for 2 × min_samples
neighbours to find that neighbour; here the training points' own core distances bound the search.

Source: hdbscan 0.8.44, `prediction.py` (`approximate_predict`, `_find_neighbor_and_lambda`,
`_find_cluster_and_probability`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.predictor.kdtree import Array, Indices, KDTree
from imgclust.predictor.neighbours import ranges

_CHUNK = 64  # queries at once: their candidates stay in the cache
_GUESS = 0.7  # share of a distance by which a ball is widened at first: enough for 24 of 25 points
_MAX_LAMBDA = float(np.finfo(np.float64).max)  # hdbscan's stand-in for 1 / 0


@dataclasses.dataclass(frozen=True, slots=True)
class Membership:
    """Where new points stand in the condensed tree. Every array has one entry per point.

    Attributes:
        labels: int32; -1 is "other".
        probabilities: float64, 0..1.
        neighbours: int64, the row of the nearest training point by mutual reachability.
        lambdas: float64, 1 / that distance.
    """

    labels: npt.NDArray[np.int32]
    probabilities: Array
    neighbours: Indices
    lambdas: Array


class ClusterTree:
    """A fitted HDBSCAN, frozen.

    Attributes:
        index: over the training points.
        clusters: the condensed tree.
        rank: of the neighbour, counted from 0, whose distance is a point's core distance.
        count: of nearest neighbours among which the nearest by mutual reachability is looked for.

    Args:
        arrays: `points` float32 (n, d), `core_distances` float64 (n,), the condensed tree's `tree_parent`,
            `tree_child` int64, `tree_lambda` float64, `tree_size` int64, `cluster_nodes` int64 (k,), and
            `kd_order` int32 (n,) from `kdtree.build_order(points)`.
        params: HDBSCAN's parameters; `min_samples` and `min_cluster_size` are read.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], params: Mapping[str, Any]) -> None:
        self.index = KDTree(arrays["points"], arrays["kd_order"])
        self._core = arrays["core_distances"]
        self._min_samples = int(params["min_samples"] or params["min_cluster_size"])
        # hdbscan reads the distance at place `min_samples`, counted from zero
        self.rank = min(self._min_samples, self.index.n - 1)
        self.count = min(2 * self._min_samples, self.index.n)
        self.clusters = Clusters(arrays)

    def tables(self) -> dict[str, Any]:
        """What `kernels/condensed_tree.c` reads."""
        return {**self.index.tables(), "rank": self.rank, "count": self.count, "core": self._core}

    def predict(self, points: npt.NDArray[np.floating[Any]]) -> Membership:
        """Label new points as `hdbscan.approximate_predict` does.

        Args:
            points: float (m, d), finite.

        Raises:
            ValueError: the dimension is not the model's, or a coordinate is not finite.
        """
        if points.ndim != 2 or points.shape[1] != self.index.dim:
            raise ValueError(f"points must be of shape (m, {self.index.dim}), not {points.shape}")
        if not np.isfinite(points).all():
            row = int(np.flatnonzero(~np.isfinite(points).all(1))[0])
            raise ValueError(f"point {row} has a coordinate that is not finite")
        return self.join(*self.nearest(points))

    def nearest(self, points: npt.NDArray[np.floating[Any]]) -> tuple[Indices, Array]:
        """Rows of the nearest training points by mutual reachability, int64 (m,); distances, float64 (m,)."""
        queries = points.astype(np.float64)
        parts = [self._nearest(queries[i : i + _CHUNK]) for i in range(0, len(queries), _CHUNK)]
        rows = np.concatenate([rows for rows, _ in parts]) if parts else np.empty(0, np.int64)
        reach = np.concatenate([reach for _, reach in parts]) if parts else np.empty(0)
        return rows, reach

    def join(self, rows: Indices, reach: Array) -> Membership:
        """Membership of points, given what `nearest` found for them."""
        with np.errstate(divide="ignore"):
            lambdas = np.where(reach > 0.0, 1.0 / reach, _MAX_LAMBDA)
        labels, probabilities = self.clusters.join(rows, lambdas)
        return Membership(labels, probabilities, rows, lambdas)

    def _nearest(self, queries: Array) -> tuple[Indices, Array]:
        """Row of, and distance to, the nearest training point by mutual reachability."""
        row, distance = self.index.home(queries)
        core = self._core.take(row)
        # the ball around a training point that holds its own neighbours lies within one around the new point
        with np.errstate(invalid="ignore"):
            radius, sure = (core + _GUESS * distance).min(1), (core + distance).min(1) * 1.01
        rows, reach = np.empty(len(queries), dtype=np.int64), np.empty(len(queries))
        waiting = np.arange(len(queries))
        while len(waiting):
            found = self.index.within(queries.take(waiting, axis=0), radius)
            enough = np.bincount(found[0], minlength=len(waiting)) > self.rank
            done = waiting.compress(enough)
            if len(done):
                near = _Pairs.of(*found).only(enough)
                rows[done], reach[done] = self._among(queries.take(done, axis=0), near)
            radius = np.maximum(sure, radius * 1.3 + self.index.step)[~enough]
            sure = sure[~enough]
            waiting = waiting[~enough]
        return rows, reach

    def _among(self, queries: Array, near: _Pairs) -> tuple[Indices, Array]:
        """The same, given at least the nearest `rank` + 1 points of each query."""
        core = near.ranked(self.rank)
        rows, reach = self._best(near, core)
        # a point beyond the core distance can still be the nearest one, if all within are sparser than it
        unsure = np.flatnonzero(reach > core)
        if len(unsure):
            wider = _Pairs.of(*self.index.within(queries.take(unsure, axis=0), reach.take(unsure)))
            rows[unsure], reach[unsure] = self._best(wider.nearest(self.count), core.take(unsure))
        return rows, reach

    def _best(self, near: _Pairs, core: Array) -> tuple[Indices, Array]:
        reach = np.maximum(near.distance, self._core.take(near.row))
        lowest = np.maximum(near.lowest(reach), core)
        # of equals the nearest, of equally near ones the first in the training data
        tied = near.where(reach <= lowest.take(near.query))
        tied = tied.where(tied.distance == tied.lowest(tied.distance).take(tied.query))
        return tied.lowest(tied.row), lowest


@dataclasses.dataclass(frozen=True, slots=True)
class _Pairs:
    """Queries and points near them, ordered by query; each query has one at least, except before `only`.

    Attributes:
        query, row: int64 (pairs,).
        distance: float64 (pairs,).
        starts: int64 (m,), where each query's pairs begin.
    """

    query: Indices
    row: Indices
    distance: Array
    starts: Indices

    @classmethod
    def of(cls, query: Indices, row: Indices, distance: Array) -> _Pairs:
        count = int(query[-1]) + 1
        return cls(query, row, distance, np.searchsorted(query, np.arange(count)))

    def where(self, some: npt.NDArray[np.bool_]) -> _Pairs:
        return _Pairs.of(self.query.compress(some), self.row.compress(some), self.distance.compress(some))

    def only(self, queries: npt.NDArray[np.bool_]) -> _Pairs:
        """The pairs of some queries, which are numbered anew."""
        if queries.all():
            return self
        kept = self.where(queries.take(self.query))
        number = np.cumsum(queries) - 1
        return _Pairs.of(number.take(kept.query), kept.row, kept.distance)

    def lowest(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Each query's lowest value."""
        return np.asarray(np.minimum.reduceat(values, self.starts))

    def ranked(self, rank: int) -> Array:
        """Each query's distance at this rank, counted from 0; infinite where it has fewer points."""
        counts = np.diff(self.starts, append=len(self.query))
        width = max(int(counts.max()), rank + 1)
        table = np.full(len(counts) * width, np.inf)
        table[ranges(np.arange(len(counts)) * width, counts)] = self.distance
        return np.asarray(np.partition(table.reshape(-1, width), rank, axis=1)[:, rank])

    def nearest(self, count: int) -> _Pairs:
        """Each query's nearest `count` points and those that are as near as the last of them."""
        last = self.ranked(count - 1)
        return self.where(self.distance <= last.take(self.query))


class Clusters:
    """The condensed tree as flat arrays: for each training point and each node what joining there means."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        parent, child = arrays["tree_parent"], arrays["tree_child"]
        value, size = arrays["tree_lambda"], arrays["tree_size"]
        self.n = len(arrays["points"])
        nodes = int(max(parent.max(initial=self.n), child.max(initial=0))) + 1 - self.n
        leaves, inner = size == 1, size > 1
        self._point_node = np.zeros(self.n, dtype=np.int64)  # counted from the root, as all nodes here
        self._point_lambda = np.zeros(self.n)
        self._point_node[child[leaves]] = parent[leaves] - self.n
        self._point_lambda[child[leaves]] = value[leaves]
        self.empty = not inner.any()
        self.root = 0 if self.empty else int(parent[inner].min()) - self.n
        self.parent = np.full(nodes, -1, dtype=np.int64)
        self.birth = np.full(nodes, -np.inf)
        self.parent[child[inner] - self.n] = parent[inner] - self.n
        self.birth[child[inner] - self.n] = value[inner]
        self.densest = np.zeros(nodes)  # the largest lambda at which anything leaves the node
        np.maximum.at(self.densest, parent - self.n, value)
        self.selected = np.asarray(arrays["cluster_nodes"], dtype=np.int64) - self.n
        self.label, self._limit = self._labels(nodes)
        self._least = self._least_of_root(arrays["labels"]) if self.root in self.selected else 0.0

    def _least_of_root(self, labels: npt.NDArray[np.int32]) -> float:
        """The lambda from which on a point is in the root's cluster, where that is the only one.

        A fit calls those "other" that leave the root early (hdbscan 0.8.44, `do_labelling`). Its prediction
        does not: everything would be in the cluster, or nothing in a tree without a split.
        """
        return float(self._point_lambda[labels >= 0].min(initial=np.inf))

    def _labels(self, nodes: int) -> tuple[npt.NDArray[np.int32], Array]:
        label = np.full(nodes, -1, dtype=np.int32)
        limit = np.zeros(nodes)
        number = {int(node): i for i, node in enumerate(self.selected)}
        for node in range(nodes):  # parents come before children
            above = int(self.parent[node])
            if node in number:
                label[node], limit[node] = number[node], self.densest[node]
            elif above >= 0:
                label[node], limit[node] = label[above], limit[above]
        return label, limit

    def join(self, rows: Indices, lambdas: Array) -> tuple[npt.NDArray[np.int32], Array]:
        """Labels, int32, and probabilities, float64, of points that meet training points at these lambdas."""
        if self.empty and not len(self.selected):
            return np.full(len(rows), -1, dtype=np.int32), np.zeros(len(rows))
        node = self._point_node[rows]
        rising = self._point_lambda[rows] > lambdas
        while True:
            rising = rising & (node > self.root) & (self.birth[node] >= lambdas)
            if not rising.any():
                break
            node = np.where(rising, self.parent[node], node)
        labels, limit = self.label[node], self._limit[node]
        if self._least:
            labels = np.where(lambdas >= self._least, labels, np.int32(-1))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(limit > 0.0, np.minimum(limit, lambdas) / limit, 1.0)
        return labels, np.where(labels >= 0, share, 0.0)

    def place(self, rows: Indices) -> tuple[Indices, Array]:
        """Where training points leave the tree: nodes, counted from the root, and lambdas."""
        return self._point_node[rows], self._point_lambda[rows]

    def exemplars(self, order: npt.NDArray[np.int32]) -> tuple[Indices, Indices]:
        """The densest points of each cluster's leaves: labels, ascending, and rows, in the order given."""
        has_child = np.zeros(len(self.parent), dtype=bool)
        has_child[self.parent[self.parent >= 0]] = True
        node = self._point_node
        typical = ~has_child[node] & (self._point_lambda == self.densest[node]) & (self.label[node] >= 0)
        row = order[typical[order]].astype(np.int64)
        row = row[np.argsort(self.label[node[row]], kind="stable")]
        return self.label[node[row]].astype(np.int64), row

    def merge_heights(self) -> Array:
        """The lambda at which nodes and clusters part, (k, nodes); NaN where one is above the other."""
        nodes = len(self.parent)
        heights = np.full((len(self.selected), nodes), np.nan)
        for i, cluster in enumerate(self.selected):
            above = set()
            node = int(cluster)
            while node >= 0:
                above.add(node)
                node = int(self.parent[node])
            # a node takes its parent's height, or parts here if its parent is above the cluster and it is not
            for node in range(1, nodes):
                parent = int(self.parent[node])
                if node in above or parent == cluster or (parent > cluster and np.isnan(heights[i, parent])):
                    continue
                heights[i, node] = self.birth[node] if parent in above else heights[i, parent]
        return heights
