"""HDBSCAN whose core distances are found once, on all cores; all else is hdbscan's.

hdbscan (0.8.44) uses one core for them, or processes, and looks for them again for `prediction_data_`: nearly
all of its time where min_samples is large.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import hdbscan
import numpy as np
import numpy.typing as npt
from hdbscan._hdbscan_boruvka import KDTreeBoruvkaAlgorithm
from hdbscan._hdbscan_linkage import label
from hdbscan.hdbscan_ import _tree_to_labels

from imgclust.placing.near_points import near_points
from imgclust.types import Floats

MOST_AXES = 60  # hdbscan takes another algorithm above
LEAF = 40  # points; hdbscan's


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """What hdbscan asks a k-d tree of `data` for, found before."""

    data: npt.NDArray[np.float64]
    distances: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]

    def query(self, _: Any, **__: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        return self.distances, self.rows


@dataclasses.dataclass(frozen=True, slots=True)
class Core:
    """Of hdbscan's `PredictionData`, what is read here: float64 (n,)."""

    core_distances: npt.NDArray[np.float64]


class ThreadedHDBSCAN(hdbscan.HDBSCAN):  # type: ignore[misc]
    """`hdbscan.HDBSCAN`, of euclidean distances between at least two points: the same tree and labels."""

    def fit(self, points: Floats, y: Any = None) -> ThreadedHDBSCAN:
        """Cluster finite points, float (n, d)."""
        if points.shape[1] > MOST_AXES:
            super().fit(points, y)
            return self
        self._raw_data, self._all_finite = points, True
        count = min(self.min_samples or self.min_cluster_size, len(points) - 1)
        rows, distances = near_points(points, count + 1)
        known = Known(np.ascontiguousarray(points, np.float64), distances, rows)
        forest = KDTreeBoruvkaAlgorithm(
            known, count, leaf_size=LEAF // 3, approx_min_span_tree=True, n_jobs=1
        )
        spanning = forest.spanning_tree()
        spanning = spanning[np.argsort(spanning[:, 2])]
        self._min_spanning_tree = spanning if self.gen_min_span_tree else None
        found = _tree_to_labels(
            known.data,
            label(spanning),
            self.min_cluster_size,
            self.cluster_selection_method,
            max_cluster_size=self.max_cluster_size,
        )
        self.labels_, self.probabilities_, self.cluster_persistence_ = found[:3]
        self._condensed_tree, self._single_linkage_tree = found[3:5]
        if self.prediction_data:
            self._prediction_data = Core(known.distances[:, count - 1].copy())
        return self
