"""A fitted UMAP and HDBSCAN → the arrays and numbers that prediction needs, and nothing else of them."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.errors import ModelError
from imgclust.model.folder import Array
from imgclust.model.parts import UNIT, ModelParts
from imgclust.predictor.batches import predict_batches
from imgclust.predictor.condensed_tree import Clusters
from imgclust.predictor.prepare import METRICS, prepare
from imgclust.types import Predictor

LEAST_FOUND = 0.9  # of a cluster's images, that are predicted to be in it
CHECKED = 1000  # images of it that are predicted, at most
LIBRARIES = ("imgclust", "umap-learn", "hdbscan", "pynndescent", "numba", "numpy", "scipy", "scikit-learn")


def freeze(umap_model: Any, hdbscan_model: Any, nodes: npt.NDArray[np.int64] | None = None) -> ModelParts:
    """What prediction needs of a fitted pair, and what is prepared from it; nothing is novel yet.

    Args:
        nodes: of the condensed tree, ascending, none above another, that are the clusters; None: those that
            HDBSCAN chose itself.

    Raises:
        ModelError: the pair is not one that can be frozen; the text says why.
    """
    _check_umap(umap_model)
    _check_hdbscan(umap_model, hdbscan_model, chosen=nodes is not None)
    parameters = {
        "umap": umap_parameters(umap_model),
        "hdbscan": hdbscan_parameters(hdbscan_model),
        "novelty": {"threshold": -1.0},  # nothing is novel
    }
    labels = np.asarray(hdbscan_model.labels_, np.int32)
    arrays: dict[str, Array] = {
        "embeddings": np.asarray(umap_model._raw_data).astype(np.float16),
        "points": np.ascontiguousarray(umap_model.embedding_, np.float32),
        "core_distances": np.asarray(hdbscan_model.prediction_data_.core_distances, np.float64),
        "labels": labels,
        "probabilities": np.asarray(hdbscan_model.probabilities_, np.float32),
        **tree_arrays(hdbscan_model),
        "cluster_nodes": selected_nodes(hdbscan_model._condensed_tree, labels),
    }
    if nodes is not None:
        arrays |= chosen_clusters(arrays, nodes)
    return ModelParts({**arrays, **prepare(arrays, parameters)}, parameters)


def tree_arrays(hdbscan_model: Any) -> dict[str, Array]:
    """A fitted HDBSCAN's condensed tree, as it is stored."""
    tree = hdbscan_model._condensed_tree
    return {
        "tree_parent": tree["parent"].astype(np.int64),
        "tree_child": tree["child"].astype(np.int64),
        "tree_lambda": tree["lambda_val"].astype(np.float64),
        "tree_size": tree["child_size"].astype(np.int64),
    }


def chosen_clusters(arrays: Mapping[str, Array], nodes: npt.NDArray[np.int64]) -> dict[str, Array]:
    """The arrays that depend on which nodes of the condensed tree are the clusters.

    Labels and probabilities of the training rows are those that HDBSCAN gives its own choice (0.8.44,
    `_hdbscan_tree.pyx`, `do_labelling` and `get_probabilities`).
    """
    tree = Clusters({**arrays, "cluster_nodes": nodes})
    node, value = tree.place(np.arange(tree.n))
    labels = tree.label[node]
    limit = tree.densest[tree.selected[labels]]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(np.isfinite(value) & (limit > 0), np.minimum(value, limit) / limit, 1.0)
    return {
        "labels": labels,
        "probabilities": np.where(labels >= 0, share, 0.0).astype(np.float32),
        "cluster_nodes": nodes,
    }


def selected_nodes(tree: Array, labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """The node of the condensed tree that each cluster is: the lowest one above all of its points.

    hdbscan (0.8.44, `CondensedTree._select_clusters`) takes the smallest parent among a cluster's points
    instead, which is one of the node's descendants when no point leaves the node itself; it then calls
    points of the other descendants "other".
    """
    inner = tree[tree["child_size"] > 1]
    above = dict(zip(inner["child"].tolist(), inner["parent"].tolist(), strict=True))
    leaves = tree[tree["child_size"] == 1]
    label = labels[leaves["child"]]
    nodes = []
    for cluster in range(int(labels.max(initial=-1)) + 1):
        open_nodes = set(leaves["parent"][label == cluster].tolist())
        while len(open_nodes) > 1:  # parents have smaller numbers than their children
            lowest = max(open_nodes)
            open_nodes.remove(lowest)
            open_nodes.add(above[lowest])
        nodes.append(open_nodes.pop())
    return np.asarray(nodes, np.int64)


def check_whole(arrays: Mapping[str, Array], predictor: Callable[[], Predictor]) -> None:
    """Refuse a model whose cluster is the whole, the root of the tree, and does not hold its own images.

    What is in such a cluster is decided by one density, the root's last; where hardly any image is denser,
    the smallest change of place decides.

    Raises:
        ModelError: with the share that was found, and what to do.
    """
    if len(arrays["points"]) not in arrays["cluster_nodes"]:
        return
    members = np.flatnonzero(arrays["labels"] >= 0)
    some = np.sort(np.random.default_rng(0).permutation(members)[:CHECKED])
    found = predict_batches(predictor(), arrays["embeddings"][some]).labels
    share = float((found >= 0).mean())
    if share < LEAST_FOUND:
        raise ModelError(
            f"the HDBSCAN's only cluster is everything (allow_single_cluster), and of its {len(members)} "
            f"rows only {share:.0%} would be predicted to be in it: fit without allow_single_cluster, with a "
            "smaller min_cluster_size, or with a cluster_selection_epsilon that takes in more"
        )


def umap_parameters(model: Any) -> dict[str, Any]:
    """What `UMAP.transform` depends on."""
    state = model.random_state
    return {
        "n_neighbors": int(model._n_neighbors),
        "n_components": int(model.n_components),
        "metric": str(model.metric),
        "a": float(model._a),
        "b": float(model._b),
        "min_dist": float(model.min_dist),
        "spread": float(model.spread),
        "local_connectivity": float(model.local_connectivity),
        "set_op_mix_ratio": float(model.set_op_mix_ratio),
        "negative_sample_rate": int(model.negative_sample_rate),
        "repulsion_strength": float(model.repulsion_strength),
        "n_epochs": None if model.n_epochs is None else int(np.max(model.n_epochs)),
        "learning_rate": float(model.learning_rate),
        "random_state": int(state) if isinstance(state, int | np.integer) else None,
    }


def hdbscan_parameters(model: Any) -> dict[str, Any]:
    """What the clustering depended on; `min_samples` is the one in effect."""
    return {
        "min_cluster_size": int(model.min_cluster_size),
        "min_samples": effective_min_samples(model),
        "alpha": float(model.alpha),
        "cluster_selection_method": str(model.cluster_selection_method),
        "cluster_selection_epsilon": float(model.cluster_selection_epsilon),
        "cluster_selection_persistence": float(getattr(model, "cluster_selection_persistence", 0.0)),
        "max_cluster_size": int(model.max_cluster_size or 0),
        "allow_single_cluster": bool(model.allow_single_cluster),
        "metric": str(model.metric),
    }


def effective_min_samples(model: Any) -> int:
    """hdbscan's default is `min_cluster_size`."""
    return int(model.min_samples or model.min_cluster_size)


def library_versions() -> dict[str, str]:
    """Of all that a fit's numbers depend on."""
    return {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}


@cache
def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def _check_umap(model: Any) -> None:
    if not hasattr(model, "embedding_"):
        raise ModelError("the UMAP is not fitted: call fit() before freezing it")
    if model.metric not in METRICS or model.output_metric != "euclidean" or model.densmap:
        raise ModelError(
            f"only UMAPs of metric {' or '.join(METRICS)}, euclidean output and without densmap can be "
            f"frozen; this one has metric={model.metric!r}, output_metric={model.output_metric!r}, "
            f"densmap={model.densmap}"
        )
    if model._sparse_data or model.unique:
        raise ModelError(
            "a UMAP of sparse data or with unique=True cannot be frozen: fit dense rows without it"
        )
    data = np.asarray(model._raw_data)
    lengths = np.linalg.norm(data, axis=1)
    if not (np.abs(lengths - 1) < UNIT).all():
        raise ModelError(
            f"the UMAP was fitted on rows of length {lengths.min():.3g} to {lengths.max():.3g}: divide each "
            "row by its length before UMAP.fit (predictions are made for unit-norm embeddings)"
        )


def _check_hdbscan(umap_model: Any, model: Any, *, chosen: bool) -> None:
    if getattr(model, "_prediction_data", None) is None:
        raise ModelError("the HDBSCAN has no prediction data: fit it with prediction_data=True")
    if model.metric != "euclidean":
        raise ModelError(
            f"only an HDBSCAN of metric 'euclidean' can be frozen; this one has {model.metric!r}"
        )
    points = np.asarray(umap_model.embedding_)
    data = np.asarray(model._raw_data)
    if data.shape != points.shape or not np.array_equal(data.astype(np.float32), points):
        raise ModelError(
            "the HDBSCAN was not fitted on this UMAP's embedding_: "
            f"its data is {data.shape}, that is {points.shape}"
        )
    n, k = len(points), int(np.max(model.labels_, initial=-1)) + 1
    if k == 0 and not chosen:
        raise ModelError(
            f"the HDBSCAN found no cluster among {n} rows: lower min_cluster_size or min_samples"
        )
    if 2 * effective_min_samples(model) > n:
        raise ModelError(
            f"min_samples {effective_min_samples(model)} needs at least {2 * effective_min_samples(model)} "
            f"training rows to predict, there are {n}"
        )


def basic_figures(labels: npt.NDArray[np.int32]) -> dict[str, Any]:
    """Figures of a labelling: clusters, their sizes, the share of "other"."""
    sizes = np.bincount(labels[labels >= 0]) if (labels >= 0).any() else np.empty(0, int)
    return {
        "images": len(labels),
        "clusters": len(sizes),
        "smallest": int(sizes.min(initial=len(labels))),
        "largest": int(sizes.max(initial=0)),
        "other": round(float((labels < 0).mean()), 4) if len(labels) else 0.0,
    }
