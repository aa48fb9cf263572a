"""Neighbours in CLIP space → a place in the UMAP space: UMAP's own model, with the chance taken out.

`UMAP.transform` moves a new point by stochastic gradient descent: the pull of each neighbour comes at epochs
that its weight fixes, the push comes from training points drawn at random. Here the push is its mean. A point
first settles where pull and push cancel; then the last epochs are replayed as UMAP would run them, neighbour
by neighbour on UMAP's schedule, because the end of the annealing leaves its mark on the place.

Source: umap-learn 0.5.12, `umap_.py` (`transform`, `smooth_knn_dist`, `make_epochs_per_sample`), `layouts.py`
(`optimize_layout_euclidean`); as for a call with one row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.predictor import exact
from imgclust.predictor.kdtree import Array, KDTree
from imgclust.predictor.neighbours import Neighbourhood
from imgclust.predictor.repulsion import CLIP, Put, Repulsion, Sources

_NEWTON, _NEWTON_STEP = 20, 1e-7  # steps for the bandwidth, and the last one's size; umap stops at 1e-5
_COARSE, _FINE = 4, 8  # steps to settle, before and after the sources of the push are looked up anew
_LEAP, _STRIDE = 4.0, 0.5  # longest step of a coordinate, before and after
_SETTLED = 0.02  # a last step longer than this has not settled
_REPLAY, _LONG_REPLAY = 8, 20  # last epochs that are replayed; for points that have not settled
_MIN_SCALE = 1e-3  # umap's MIN_K_DIST_SCALE: least bandwidth, as a share of the mean distance
_TINY = 1e-30  # against division by zero where a point lies on a neighbour
_CHUNK = 128  # points at once: their sources stay in the cache


@dataclasses.dataclass(frozen=True, slots=True)
class Curves:
    """UMAP's two forces as functions of the squared distance."""

    a: float
    b: float
    strength: float

    def attraction(self, square: Array) -> Array:
        return 2 * self.a * self.b * square ** (self.b - 1) / (self.a * square**self.b + 1)

    def repulsion(self, square: Array) -> Array:
        return 2 * self.strength * self.b / ((0.001 + square) * (self.a * square**self.b + 1))


def build_tables(params: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """What of UMAP's parameters needs transcendental functions.

    Returns:
        `attraction` and `repulsion`, float32, the forces tabulated; `knn_target` float64 (1,), what the
        strengths of a point's neighbours add up to.
    """
    curves = Curves(params["a"], params["b"], params["repulsion_strength"])
    return {
        "attraction": exact.table(curves.attraction),
        "repulsion": exact.table(curves.repulsion),
        "knn_target": np.array([np.log2(float(params["n_neighbors"]))]),
    }


@dataclasses.dataclass(frozen=True, slots=True)
class Transformed:
    """Attributes: points float32 (m, d); settled bool (m,)."""

    points: npt.NDArray[np.float32]
    settled: npt.NDArray[np.bool_]


@dataclasses.dataclass(slots=True)
class _Pull:
    """The neighbours of a chunk; the largest weight is 1.

    Attributes:
        places: float32 (k, d, m).
        weights: float32 (k, m).
        exactly: float64 (k, m), the weights before they are rounded, for the schedule.
        total: float32 (m,), the sum of the weights.
    """

    places: Any
    weights: Any
    exactly: Any
    total: Any

    def only(self, some: Any) -> _Pull:
        return _Pull(self.places[:, :, some], self.weights[:, some], self.exactly[:, some], self.total[some])


class UmapTransform:
    """The frozen UMAP. The steps are written for numpy arrays and torch tensors alike: `xp` is the module.

    Args:
        arrays: `points` float32 (n, d), `attraction` and `repulsion` from `build_tables`.
        params: UMAP's parameters.
        tree: over `points`.
        put: takes arrays to where neighbours will be.
    """

    def __init__(
        self,
        arrays: Mapping[str, npt.NDArray[Any]],
        params: Mapping[str, Any],
        tree: KDTree,
        put: Put = np.asarray,
    ) -> None:
        self._axes = put(np.ascontiguousarray(arrays["points"].T))
        self._attraction = put(arrays["attraction"])
        self._xp = exact.module(self._attraction)
        self._negatives = float(params["negative_sample_rate"])
        push = self._negatives * float(params["repulsion_strength"])
        self._repulsion = Repulsion(tree, arrays["repulsion"], push, put)
        self._epochs = 100 if params["n_epochs"] is None else int(params["n_epochs"] // 3)
        self._rate = params["learning_rate"] / 4.0
        self._local = max(0.0, params["local_connectivity"] - 1.0)
        self._target = float(arrays["knn_target"][0])
        # a little below the logarithm, so that no library's last bit is in it
        self._neighbours = min(params["n_neighbors"], len(arrays["points"]))
        others = max(self._neighbours - 1, 1)
        self._first = max(0.0, math.floor(1000 * math.log(others / self._target)) / 1000)

    def tables(self) -> dict[str, Any]:
        """What `kernels/umap_transform.c` reads."""
        return {
            **self._repulsion.tables(), "points": self._axes.T, "neighbours": self._neighbours,
            "epochs": self._epochs, "attraction": self._attraction, "attraction_size": len(self._attraction),
            "negatives": self._negatives, "rate": self._rate, "local": self._local, "target": self._target,
            "first": self._first,
        }  # fmt: skip

    def transform(self, near: Neighbourhood) -> Transformed:
        """Places of new points; each by itself."""
        parts = [
            self.move(near.rows[i : i + _CHUNK], near.distances[i : i + _CHUNK])
            for i in range(0, len(near.rows), _CHUNK)
        ]
        return Transformed(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def move(self, rows: Any, distances: Any) -> tuple[Any, Any]:
        """Places of new points, float32 (m, d), and whether they settled, (m,).

        Args:
            rows: int64 (m, k), the neighbours' rows.
            distances: float64 (m, k), to them in CLIP space.
        """
        places = exact.pick(self._axes, rows.T).swapaxes(0, 1)
        points, settled = self._move(places, exact.contiguous(distances.T))
        return exact.contiguous(points.T), settled

    def _move(self, places: Any, distances: Any) -> tuple[Any, Any]:
        """Places of new points, float32 (d, m), and whether they settled, (m,).

        Args:
            places: float32 (k, d, m), of the neighbours.
            distances: float64 (k, m), to them in CLIP space.
        """
        weights = self._weights(distances)
        rounded = exact.single(weights)
        pull = _Pull(places, rounded, weights, exact.ordered_sum(rounded))
        start = self._start(pull, distances[0] == 0.0)
        points, _ = self._settle(pull, start, self._sources(start, roughly=True), _COARSE, _LEAP)
        sources = self._sources(points)
        points, step = self._settle(pull, points, sources, _FINE, _STRIDE)
        settled = step <= _SETTLED
        left = ~settled
        restless = points[:, left]
        if left.any():
            restless = self._replay(pull.only(left), restless, self._sources(restless), _LONG_REPLAY)
        points = self._replay(pull, points, sources, _REPLAY)
        points[:, left] = restless
        return points, settled

    def _sources(self, points: Any, *, roughly: bool = False) -> Sources:
        return self._repulsion.sources(exact.double(points.T), roughly=roughly)

    def _weights(self, distances: Any) -> Any:
        """Membership strengths over their largest, (k, m); 0 where umap prunes the edge."""
        xp = self._xp
        beyond = exact.clip(distances - self._nearest(distances), 0.0, math.inf)
        mean = exact.quotient(exact.ordered_sum(distances), len(distances))
        with np.errstate(divide="ignore", invalid="ignore"):
            most = xp.where(mean > 0.0, exact.quotient(1.0, _MIN_SCALE * mean), 1.0)
            # Jensen's inequality: the inverse bandwidth is no smaller than this; the sum is convex in it, so
            # that Newton's steps never overshoot
            spread = exact.quotient(exact.ordered_sum(beyond[1:]), max(len(beyond) - 1, 1))
            inverse = xp.where(spread > 0.0, exact.quotient(self._first, spread), 0.0)
            moving = inverse >= 0.0
            for _ in range(_NEWTON):
                values = exact.exp(-beyond[1:] * inverse)
                total, slope = exact.ordered_sum(xp.stack([values, values * beyond[1:]], 1))
                step = xp.where((slope > 0.0) & moving, (total - self._target) / slope, 0.0)
                inverse = xp.minimum(exact.clip(inverse + step, 0.0, math.inf), most)
                moving = moving & (xp.abs(step) > _NEWTON_STEP * inverse)
                if not moving.any():
                    break
        strengths = exact.exp(-beyond * inverse)
        strengths = strengths / strengths[0]
        return xp.where(strengths < 1.0 / self._epochs, 0.0, strengths)

    def _nearest(self, distances: Any) -> Any:
        """umap's rho, (m,): the distance within which all neighbours count fully."""
        if self._local == 0.0:
            return 0.0
        xp, last = self._xp, len(distances) - 1
        zeros = (distances == 0.0).sum(0)
        whole, share = int(self._local), self._local - int(self._local)
        first = xp.clip(zeros + max(whole - 1, 0), None, last)[None]
        second = xp.clip(first + 1, None, last)
        take = np.take_along_axis if xp is np else xp.take_along_dim
        low, high = take(distances, first, 0)[0], take(distances, second, 0)[0]
        return low + share * (high - low) if whole else share * low

    def _start(self, pull: _Pull, equal: Any) -> Any:
        """The weighted mean of the neighbours; for an embedding of the training data its own place."""
        means = exact.ordered_sum(pull.weights[:, None] * pull.places) / pull.total
        return self._xp.where(equal, pull.places[0], means)

    def _settle(
        self, pull: _Pull, points: Any, sources: Sources, steps: int, stride: float
    ) -> tuple[Any, Any]:
        """Fixed-point steps to where pull and push cancel; the places, and how far the last step went."""
        xp = self._xp
        share = self._negatives * pull.total
        # one row of ones more, so that one sum has the strengths' own too
        places = xp.concatenate([pull.places, xp.ones_like(pull.places[:, :1])], 1)
        for _ in range(steps):
            force = self._repulsion.force(points, sources)
            strengths = self._strengths(points - pull.places)
            strengths *= pull.weights
            sums = exact.ordered_sum(strengths[:, None] * places)
            step = exact.clip((sums[:-1] + share * force) / sums[-1] - points, -stride, stride)
            points = points + step
        return points, exact.largest(abs(step), 0)

    def _replay(self, pull: _Pull, points: Any, sources: Sources, epochs: int) -> Any:
        """The last epochs of UMAP's own descent, with the mean push after each pull."""
        xp = self._xp
        before = xp.floor(max(self._epochs - epochs - 1, 0) * pull.exactly)
        for epoch in range(max(self._epochs - epochs, 1), self._epochs):
            rate = self._rate * (1.0 - epoch / self._epochs)
            after = xp.floor(epoch * pull.exactly)
            due, before = exact.single(after > before), after
            push = (rate * self._negatives) * self._repulsion.force(points, sources)
            differences = points - pull.places
            # no force exceeds umap's bound
            largest = exact.clip(exact.largest(abs(differences), 1), _TINY, math.inf)
            share = rate * xp.minimum(self._strengths(differences), exact.quotient(CLIP, largest)) * due
            # each pull goes the share's part of the way from where the one before it ended
            kept = exact.single(exact.running_product(exact.double(exact.flip(1.0 - share))))
            later = exact.flip(xp.concatenate([xp.ones_like(share[:1]), kept[:-1]]))
            pulled = share[:, None] * pull.places + due[:, None] * push
            points = kept[-1] * points + exact.ordered_sum(pulled * later[:, None])
        return points

    def _strengths(self, differences: Any) -> Any:
        """The pull's coefficient of each neighbour, (k, m)."""
        return exact.lookup(self._attraction, exact.squared_lengths(differences))
