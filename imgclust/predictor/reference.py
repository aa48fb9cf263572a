"""What umap-learn and hdbscan themselves say of new images: one row at a time, on rebuilt objects.

The yardstick for `imgclust.predictor.predictor`, and the slow way that the benchmarks compare with. Loads
umap, hdbscan and pynndescent, and compiles them: nothing that answers requests imports this module.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import hdbscan
import numpy as np
import numpy.typing as npt
import umap
from hdbscan.plots import CondensedTree
from hdbscan.prediction import PredictionData
from sklearn.utils import check_random_state
from umap.umap_ import nearest_neighbors

from imgclust.predictor import assignment, novelty
from imgclust.types import MAX_CANDIDATES, Floats, Prediction

Array = npt.NDArray[Any]

SMALL = 4096  # rows; below it umap compares with all of them instead of asking an index
TREE = np.dtype([("parent", np.intp), ("child", np.intp), ("lambda_val", float), ("child_size", np.intp)])


class ReferencePredictor:
    """`UMAP.transform`, `approximate_predict` and `membership_vector`, one row a call.

    Args:
        arrays: the frozen arrays of a model folder; see `imgclust.model.folder`.
        params: its parameters: the tables "umap", "hdbscan", "novelty" and perhaps "assignment".
        transform_seed: of UMAP's negative sampling. Another seed gives other labels to some images; the
            majority over many seeds is what one seed estimates.
    """

    def __init__(
        self, arrays: Mapping[str, Array], params: Mapping[str, Any], *, transform_seed: int = 42
    ) -> None:
        self._embeddings = np.asarray(arrays["embeddings"], np.float32)
        self._novelty = params["novelty"]
        self._mean = novelty.stored_mean_direction(arrays, self._novelty)
        self._assigned_from = assignment.threshold_of(params)
        self.umap = rebuild_umap(arrays, params["umap"], transform_seed=transform_seed)
        self.hdbscan = rebuild_hdbscan(arrays, params["hdbscan"])

    def predict(self, embeddings: Floats) -> Prediction:
        """Predict each row by itself; see `imgclust.types.Prediction`."""
        rows = np.ascontiguousarray(embeddings, np.float32)
        if not len(rows):
            return _empty(self.umap.embedding_.shape[1])
        return Prediction.concat([self._one(row[None]) for row in rows])

    def _one(self, row: Floats) -> Prediction:
        point = self.umap.transform(row).astype(np.float32)
        label, probability = hdbscan.approximate_predict(self.hdbscan, point)
        with np.errstate(invalid="ignore"):  # 0/0 where no cluster claims the point
            memberships = np.nan_to_num(hdbscan.membership_vector(self.hdbscan, point))
        candidates, scores = best_candidates(memberships)
        similarity = nearest_cosine(row, self._embeddings)
        found = Prediction(
            labels=label.astype(np.int32),
            probabilities=probability.astype(np.float32),
            points=point,
            novel=novelty.judge(self._novelty, self._mean, row, similarity),
            candidates=candidates,
            scores=scores,
            similarities=similarity,
            assigned=np.zeros(1, bool),
        )
        return assignment.assign(found, self._assigned_from)


def rebuild_umap(arrays: Mapping[str, Array], p: Mapping[str, Any], *, transform_seed: int = 42) -> umap.UMAP:
    """A fitted UMAP from its frozen arrays: as much of one as `transform` reads."""
    data = np.ascontiguousarray(arrays["embeddings"], np.float32)
    names = (
        "n_neighbors", "n_components", "metric", "min_dist", "spread", "local_connectivity",
        "set_op_mix_ratio", "negative_sample_rate", "repulsion_strength", "n_epochs", "learning_rate",
    )  # fmt: skip
    given = {name: p[name] for name in names}
    model = umap.UMAP(**given, transform_seed=transform_seed, random_state=p["random_state"], n_jobs=1)
    model._raw_data, model._initial_alpha = data, p["learning_rate"]
    model.knn_indices = model.knn_dists = model.knn_search_index = None
    model._validate_parameters()
    model._a, model._b = p["a"], p["b"]
    model._initial_alpha, model._n_neighbors = p["learning_rate"], p["n_neighbors"]
    model.embedding_ = np.ascontiguousarray(arrays["points"], np.float32)
    # `transform` returns the stored points for exactly the training array: no such shortcut here.
    model._input_hash = None
    model._small_data = len(data) < SMALL
    if not model._small_data:
        model._knn_search_index = _search_index(model)
    return model


def _search_index(model: umap.UMAP) -> Any:
    """The index that `UMAP.fit` builds, from the same random state, ready for queries."""
    *_, index = nearest_neighbors(
        model._raw_data, model._n_neighbors, model.metric, {}, model.angular_rp_forest,
        check_random_state(model.random_state), model.low_memory, use_pynndescent=True, n_jobs=1,
    )  # fmt: skip
    return index


def rebuild_hdbscan(arrays: Mapping[str, Array], p: Mapping[str, Any]) -> hdbscan.HDBSCAN:
    """A fitted HDBSCAN with prediction data from its frozen arrays."""
    model = _FrozenHDBSCAN(
        min_cluster_size=p["min_cluster_size"],
        min_samples=p["min_samples"],
        cluster_selection_method=p["cluster_selection_method"],
        metric=p["metric"],
    )
    points = np.asarray(arrays["points"], np.float64)
    tree = np.empty(len(arrays["tree_parent"]), TREE)
    for field, name in zip(
        ("parent", "child", "lambda_val", "child_size"),
        ("tree_parent", "tree_child", "tree_lambda", "tree_size"),
        strict=True,
    ):
        tree[field] = arrays[name]
    model._raw_data, model._all_finite = points, True
    model.labels_ = np.asarray(arrays["labels"])
    model.probabilities_ = np.asarray(arrays["probabilities"])
    model._condensed_tree = tree
    model.nodes_ = [int(node) for node in arrays["cluster_nodes"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model._prediction_data = PredictionData(
            points, model.condensed_tree_, p["min_samples"], metric=p["metric"]
        )
    model._prediction_data.core_distances = np.asarray(arrays["core_distances"])
    return model


class _Tree(CondensedTree):  # type: ignore[misc]
    """A condensed tree that knows its selected nodes instead of guessing them from the labels."""

    def __init__(self, tree: Array, labels: Array, nodes: list[int]) -> None:
        super().__init__(tree, labels)
        self._nodes = nodes

    def _select_clusters(self) -> list[int]:
        return self._nodes


class _FrozenHDBSCAN(hdbscan.HDBSCAN):  # type: ignore[misc]
    nodes_: list[int]

    @property
    def condensed_tree_(self) -> CondensedTree:
        return _Tree(self._condensed_tree, self.labels_, self.nodes_)


def best_candidates(memberships: Array) -> tuple[npt.NDArray[np.int32], Floats]:
    """The clusters with the largest soft memberships, best first, padded with -1 and 0."""
    n = len(memberships)
    candidates = np.full((n, MAX_CANDIDATES), -1, np.int32)
    scores = np.zeros((n, MAX_CANDIDATES), np.float32)
    order = np.argsort(-memberships, axis=1, kind="stable")[:, :MAX_CANDIDATES]
    best = np.take_along_axis(memberships, order, axis=1)
    candidates[:, : order.shape[1]] = np.where(best > 0, order, -1)
    scores[:, : order.shape[1]] = best
    return candidates, scores


def _empty(d: int) -> Prediction:
    n = 0
    return Prediction(
        labels=np.empty(n, np.int32),
        probabilities=np.empty(n, np.float32),
        points=np.empty((n, d), np.float32),
        novel=np.empty(n, np.bool_),
        candidates=np.empty((n, MAX_CANDIDATES), np.int32),
        scores=np.empty((n, MAX_CANDIDATES), np.float32),
        similarities=np.empty(n, np.float32),
        assigned=np.empty(n, np.bool_),
    )


def nearest_cosine(rows: Floats, training: Floats, *, block: int = 1024) -> Floats:
    """float32 (n,): the cosine of each row to the nearest training row, by comparison with all of them."""
    norms = np.linalg.norm(training, axis=1)
    parts = []
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        lengths = np.maximum(np.linalg.norm(part, axis=1), np.finfo(np.float32).tiny)
        parts.append((part @ training.T / norms).max(axis=1) / lengths)
    return np.concatenate(parts) if parts else np.empty(0, np.float32)
