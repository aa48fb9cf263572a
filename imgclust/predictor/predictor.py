"""Embedding → point → cluster, from frozen arrays: the same answer for the same embedding, always.

    embeddings ─► neighbours ─► umap_transform ─► condensed_tree ─► soft_membership
                  CLIP space    a place           a cluster         candidates

Nothing here loads umap, hdbscan or pynndescent, and nothing is compiled at run time. Each step is there in
numpy and in C (`compiled`, where it was built), and on GPUs in torch (`gpu`); all give the same bits.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from imgclust.predictor import assignment, novelty
from imgclust.predictor.compiled import Kernels
from imgclust.predictor.condensed_tree import ClusterTree, Membership
from imgclust.predictor.gpu import DeviceLocator, Located
from imgclust.predictor.neighbours import LEAST_PART, Indices, Neighbourhood, Neighbours, divided
from imgclust.predictor.prepare import LARGEST, METRICS, Arrays, check_prepared, prepare
from imgclust.predictor.soft_membership import SoftMembership
from imgclust.predictor.threads import Threads
from imgclust.predictor.umap_transform import UmapTransform
from imgclust.types import MAX_CANDIDATES, Floats, Prediction

_AT_ONCE = 256  # rows: bounds the memory of one call
_LEAST_COMPILED = 16  # rows of a thread in compiled code: waking it takes as long as one row
_TWO_PARTS = 8  # rows from which on two threads search: the products of codes hold no lock


class FrozenPredictor:
    """A frozen model's predictions. Calls from several threads share it.

    Attributes:
        rows: how many embeddings were predicted.
        unsettled: of these, how many did not settle and were placed by a longer replay instead.

    Args:
        arrays: the frozen arrays and what `prepare` added to them.
        params: the tables "umap", "hdbscan" and "novelty", and perhaps "assignment".
        device: where neighbours are searched and points are placed: "cpu", "cuda" or "cuda:1"; "torch-cpu"
            runs the code for GPUs on the processor. "mps" means "cpu": it has no float64.
        threads: that a call is divided among; None: as many as torch uses.

    Raises:
        ValueError: a metric that is not supported.
        ModelError: a prepared array or the assignment is damaged.
    """

    def __init__(
        self,
        arrays: Arrays,
        params: Mapping[str, Mapping[str, Any]],
        *,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        umap = params["umap"]
        for name, metric, known in (
            ("UMAP", umap["metric"], METRICS),
            ("HDBSCAN", params["hdbscan"]["metric"], METRICS[:1]),
        ):
            if metric not in known:
                raise ValueError(f"{name} metric {metric!r} is not supported: only {', '.join(known)}")
        if "kd_order" not in arrays:  # a folder that was written before there was anything to prepare
            arrays = {**arrays, **prepare(arrays, params)}
        check_prepared(arrays, umap["n_neighbors"])
        self._arrays = arrays
        self._dim = arrays["embeddings"].shape[1]
        self._novelty = {name: float(value) for name, value in params["novelty"].items()}
        self._mean = novelty.stored_mean_direction(arrays, self._novelty)
        self._assigned_from = assignment.threshold_of(params)
        self.tree = ClusterTree(arrays, params["hdbscan"])
        self._locator = (
            None if device in ("cpu", "mps") else DeviceLocator(arrays, params, self.tree, _device(device))
        )
        if self._locator is None:
            self._neighbours = Neighbours(arrays, umap["n_neighbors"], umap["metric"])
            self._umap = UmapTransform(arrays, umap, self.tree.index)
        self._soft = SoftMembership(arrays["points"], arrays["kd_order"], self.tree.clusters)
        self._kernels = (
            None if self._locator else Kernels.of(self._neighbours, self._umap, self.tree, self._soft)
        )
        self._threads = Threads(threads or torch.get_num_threads())
        self.rows = self.unsettled = 0

    def predict(self, embeddings: Floats) -> Prediction:
        """Predict clusters; each row's answer is a function of that row alone.

        Args:
            embeddings: float32 (m, D), unit-norm rows rounded to float16 values.

        Raises:
            ValueError: another dtype or shape; a row with NaN, infinity, only zeros, or values that float16
                cannot hold, named by its number.
        """
        self._check(embeddings)
        parts = [self._predict(embeddings[i : i + _AT_ONCE]) for i in range(0, len(embeddings), _AT_ONCE)]
        return Prediction.concat(parts) if parts else self._nothing()

    def judging(self, thresholds: Mapping[str, float]) -> FrozenPredictor:
        """The same predictor, with another table "novelty"."""
        other = copy.copy(self)
        other._novelty = {name: float(value) for name, value in thresholds.items()}
        other._mean = novelty.stored_mean_direction(self._arrays, other._novelty)
        return other

    def _predict(self, embeddings: Floats) -> Prediction:
        if self._locator:
            return self._answer(embeddings, self._locator.locate(embeddings))
        if self._kernels:
            parts = max(1, min(self._threads.count, len(embeddings) // _LEAST_COMPILED))
            if parts == 1:
                return self._by_kernels(self._kernels, embeddings)
            rows = [embeddings[part] for part in divided(len(embeddings), parts)]
            return Prediction.concat(
                list(self._threads.pool.map(self._by_kernels, itertools.repeat(self._kernels), rows))
            )
        if len(embeddings) < _TWO_PARTS:
            return self._threads.run(lambda: self._alone(embeddings))
        # the products are cheapest for all rows at once, so threads divide the training rows; then the rows
        pool, reading = self._threads.pool, self._neighbours.reading(embeddings)
        pieces = self._neighbours.parts(self._threads.count, len(embeddings))
        found = list(pool.map(self._neighbours.candidates, itertools.repeat(reading), pieces))
        parts = max(1, min(self._threads.count, len(embeddings) // LEAST_PART))
        slices = divided(len(embeddings), parts)
        split = [[candidates[part] for candidates in found] for part in slices]
        return Prediction.concat(list(pool.map(self._finish, [embeddings[part] for part in slices], split)))

    def _by_kernels(self, kernels: Kernels, embeddings: Floats) -> Prediction:
        near = kernels.search(embeddings)
        placed = kernels.transform(near)
        rows, reach = kernels.nearest(placed.points)
        located = Located(placed.points, placed.settled, near.similarities, rows, reach, near.rows[:, 0])
        return self._answer(embeddings, located)

    def _alone(self, embeddings: Floats) -> Prediction:
        return self._place(embeddings, self._neighbours.search(embeddings))

    def _finish(self, embeddings: Floats, candidates: list[Indices]) -> Prediction:
        return self._place(embeddings, self._neighbours.ranked(embeddings, candidates))

    def _place(self, embeddings: Floats, near: Neighbourhood) -> Prediction:
        placed = self._umap.transform(near)
        rows, reach = self.tree.nearest(placed.points)
        located = Located(placed.points, placed.settled, near.similarities, rows, reach, near.rows[:, 0])
        return self._answer(embeddings, located)

    def _answer(self, embeddings: Floats, located: Located) -> Prediction:
        membership = self.tree.join(located.rows, located.reach)
        again = np.flatnonzero(located.similarities >= self._novelty.get("again", math.inf))
        if len(again):
            located, membership = self._as_fitted(again, located, membership)
        candidates, scores = (self._kernels or self._soft).best(located.points, membership)
        with self._threads.lock:
            self.rows += len(located.points)
            self.unsettled += int(np.count_nonzero(~located.settled))
        found = Prediction(
            labels=membership.labels,
            probabilities=membership.probabilities.astype(np.float32),
            points=located.points,
            novel=novelty.judge(self._novelty, self._mean, embeddings, located.similarities),
            candidates=candidates,
            scores=scores,
            similarities=located.similarities.astype(np.float32),
            assigned=np.zeros(len(located.points), bool),
        )
        return assignment.assign(found, self._assigned_from)

    def _as_fitted(self, again: Indices, located: Located, found: Membership) -> tuple[Located, Membership]:
        """Put queries that are a training image once more, to the eye, where that one is, and label them so.

        UMAP places a training image among its neighbours, and a query beside them: some would be tagged
        otherwise than the picture that they are a copy of.
        """
        rows = located.closest[again]
        points, labels, probabilities = located.points.copy(), found.labels.copy(), found.probabilities.copy()
        points[again] = self._arrays["points"][rows]
        labels[again] = self._arrays["labels"][rows]
        probabilities[again] = self._arrays["probabilities"][rows]
        neighbours, lambdas = found.neighbours.copy(), found.lambdas.copy()
        neighbours[again], lambdas[again] = rows, self.tree.clusters.place(rows)[1]
        return (
            dataclasses.replace(located, points=points),
            Membership(labels, probabilities, neighbours, lambdas),
        )

    def _nothing(self) -> Prediction:
        floats, integers = np.empty(0, np.float32), np.empty((0, MAX_CANDIDATES), np.int32)
        return Prediction(
            labels=np.empty(0, np.int32),
            probabilities=floats,
            points=np.empty((0, self.tree.index.dim), np.float32),
            novel=np.empty(0, bool),
            candidates=integers,
            scores=integers.astype(np.float32),
            similarities=floats,
            assigned=np.empty(0, bool),
        )

    def _check(self, embeddings: Floats) -> None:
        if not isinstance(embeddings, np.ndarray) or embeddings.dtype != np.float32:
            kind = getattr(embeddings, "dtype", type(embeddings).__name__)
            raise ValueError(
                f"embeddings must be a float32 array, not {kind}: convert with astype(np.float32)"
            )
        if embeddings.ndim != 2 or embeddings.shape[1] != self._dim:
            raise ValueError(f"embeddings must be of shape (m, {self._dim}), not {embeddings.shape}")
        if self._kernels and self._kernels.are_embeddings(embeddings, LARGEST):
            return  # what follows names the row that is wrong
        for wrong, what in (
            (~np.isfinite(embeddings).all(1), "holds NaN or infinity"),
            (~embeddings.any(1), "is all zeros"),
            (
                np.abs(embeddings).max(1, initial=0.0) > LARGEST,
                f"is not of unit length: a value exceeds {LARGEST}",
            ),
        ):
            if wrong.any():
                raise ValueError(f"embedding {int(np.argmax(wrong))} {what}: it has no cluster")
        with np.errstate(over="ignore"):
            half = embeddings.astype(np.float16).astype(np.float32)
        if (half != embeddings).any():
            row = int(np.argmax((half != embeddings).any(1)))
            raise ValueError(
                f"embedding {row} is not rounded to float16 values: use x.astype(np.float16) first"
            )


def _device(name: str) -> torch.device:
    return torch.device("cpu" if name == "torch-cpu" else name)
