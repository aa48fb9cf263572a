"""Soft membership: how much a point belongs to each cluster, so that "other" has candidates too.

What `hdbscan.membership_vector` computes, for a whole batch: nearness to the densest points of each cluster,
times how late in the condensed tree the point parts from it. Of many equally dense points some are compared.

Source: hdbscan 0.8.44, `prediction.py` (`membership_vector`), `_prediction_utils.pyx`
(`dist_membership_vector`, `outlier_membership_vector`, `prob_in_some_cluster`, `merge_height`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.predictor import exact
from imgclust.predictor.condensed_tree import Clusters, Membership
from imgclust.predictor.kdtree import Array, Indices
from imgclust.types import MAX_CANDIDATES, Floats, Ints

_LEAST = 1e-8  # hdbscan's stand-in for a denominator that is not positive
# exemplars of a cluster that are compared with: min_samples = 1000 makes a thousand of equal density
MOST_EXEMPLARS = 64
_CHUNK = 64


class SoftMembership:
    """Scores of every cluster for new points.

    Args:
        points: float32 (n, d), the training points.
        order: int32 (n,), from `kdtree.build_order(points)`.
        clusters: of the same model.
    """

    def __init__(
        self, points: npt.NDArray[np.float32], order: npt.NDArray[np.int32], clusters: Clusters
    ) -> None:
        self._clusters = clusters
        label, row = _thinned(*clusters.exemplars(order))
        self._exemplars = points[row].T.astype(np.float64)
        self._first = np.searchsorted(label, np.arange(len(clusters.selected)))
        self._height = clusters.merge_heights()

    def tables(self) -> dict[str, Any]:
        """What `kernels/condensed_tree.c` reads."""
        return {
            "clusters": len(self._first), "nodes": len(self._clusters.densest), "dim": len(self._exemplars),
            "exemplars_size": self._exemplars.shape[1], "exemplars": self._exemplars, "first": self._first,
            "height": self._height, "densest": self._clusters.densest, "selected": self._clusters.selected,
        }  # fmt: skip

    def joins(self, membership: Membership) -> tuple[Indices, Array]:
        """Nodes where points join, and lambdas, (m,): no later than their neighbours left."""
        node, left = self._clusters.place(membership.neighbours)
        return node, np.minimum(membership.lambdas, left)

    def scores(self, points: npt.NDArray[np.float32], membership: Membership) -> Array:
        """Soft membership of points in every cluster.

        Args:
            points: float32 (m, d).
            membership: what `ClusterTree.predict` says of them.

        Returns:
            float64 (m, k); a row's sum is the probability of being in some cluster.
        """
        parts = []
        for i in range(0, len(points), _CHUNK):
            part = slice(i, i + _CHUNK)
            parts.append(self._scores(points[part], membership.neighbours[part], membership.lambdas[part]))
        return np.concatenate(parts, axis=1).T if parts else np.empty((0, len(self._first)))

    def best(self, points: npt.NDArray[np.float32], membership: Membership) -> tuple[Ints, Floats]:
        """The clusters of the highest scores, and these: int32 and float32 (m, 3), padded with -1 and 0."""
        scores = self.scores(points, membership).astype(np.float32)
        candidates = np.full((len(points), MAX_CANDIDATES), -1, dtype=np.int32)
        best = np.zeros((len(points), MAX_CANDIDATES), dtype=np.float32)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :MAX_CANDIDATES]
        width = order.shape[1]
        best[:, :width] = np.take_along_axis(scores, order, 1)
        candidates[:, :width] = np.where(best[:, :width] > 0.0, order, -1)
        return candidates, best

    def _scores(self, points: npt.NDArray[np.float32], rows: Any, lambdas: Array) -> Array:
        if not len(self._first):
            return np.empty((0, len(points)))
        node, left = self._clusters.place(rows)
        lambdas = np.minimum(lambdas, left)
        with np.errstate(all="ignore"):  # infinite lambdas of duplicates give NaN, which counts as 0
            nearness = self._nearness(points.astype(np.float64))
            lateness = self._lateness(node, lambdas)
            scores = np.sqrt(nearness) * (lateness * lateness)
            scores = scores / exact.ordered_sum(scores) * self._inside(node, lambdas)
        return np.where(np.isfinite(scores), scores, 0.0)

    def _nearness(self, points: Array) -> Array:
        """Inverse distances to each cluster's nearest exemplar, over their sum; (k, m)."""
        squares = np.zeros((self._exemplars.shape[1], len(points)))
        for exemplar, x in zip(self._exemplars, points.T, strict=True):
            gap = exemplar[:, None] - x
            squares += gap * gap
        nearest = np.sqrt(np.minimum.reduceat(squares, self._first, axis=0))
        limit = np.finfo(np.float64).max / len(nearest)
        inverse = np.where(nearest > 0.0, 1.0 / nearest, limit)
        return np.asarray(inverse / exact.ordered_sum(inverse))

    def _lateness(self, node: Any, lambdas: Array) -> Array:
        """Softmax of how near the end of its own node the point parts from each cluster; (k, m)."""
        # hdbscan passes this lambda, and only this, as float32
        height = self._heights(node, lambdas.astype(np.float32).astype(np.float64))
        densest = self._clusters.densest[node]
        rest = densest - height
        scores = densest / np.where(rest > 0.0, rest, _LEAST)
        powers = exact.exp(scores - scores.max(0))
        return np.asarray(powers / exact.ordered_sum(powers))

    def _inside(self, node: Any, lambdas: Array) -> Array:
        """Probability of being in some cluster; (m,)."""
        heights = self._heights(node, lambdas)
        nearest = self._clusters.selected[heights.argmax(0)]
        densest = np.maximum(lambdas, self._clusters.densest[nearest])
        return np.asarray(heights.max(0) / (densest + _LEAST))

    def _heights(self, node: Any, lambdas: Array) -> Array:
        heights = self._height[:, node]
        return np.where(np.isnan(heights), lambdas, heights)


def _thinned(label: Indices, row: Indices) -> tuple[Indices, Indices]:
    """At most `MOST_EXEMPLARS` exemplars of each label, evenly along their order."""
    kept = []
    for places in np.split(np.arange(len(label)), np.flatnonzero(np.diff(label)) + 1):
        count = min(len(places), MOST_EXEMPLARS)
        kept.append(places[np.arange(count) * len(places) // max(count, 1)])
    chosen = np.concatenate(kept)
    return label[chosen], row[chosen]
