"""Frozen arrays for tests: a real HDBSCAN over made-up places, without the minutes that a UMAP takes."""

from __future__ import annotations

from typing import Any

import hdbscan
import numpy as np

from imgclust.predictor.ivf import build_ivf
from imgclust.predictor.prepare import prepare

UMAP = {
    "n_neighbors": 10,
    "n_components": 3,
    "metric": "euclidean",
    "a": 1.8222100752251498,  # of min_dist 0.03, spread 1
    "b": 0.8211992025190116,
    "min_dist": 0.03,
    "spread": 1.0,
    "local_connectivity": 1.0,
    "set_op_mix_ratio": 1.0,
    "negative_sample_rate": 5,
    "repulsion_strength": 1.0,
    "n_epochs": None,
    "learning_rate": 1.0,
    "random_state": 0,
}


def unit_half(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, rounded to float16 values."""
    unit = vectors / np.sqrt((vectors * vectors).sum(1, keepdims=True))
    return unit.astype(np.float16).astype(np.float32)


def tree_arrays(clusterer: hdbscan.HDBSCAN, points: np.ndarray) -> dict[str, np.ndarray]:
    """What `ClusterTree` needs of a fitted HDBSCAN, as hdbscan's own prediction reads it."""
    tree, data = clusterer.condensed_tree_._raw_tree, clusterer.prediction_data_
    nodes = [data.reverse_cluster_map[label] for label in sorted(data.reverse_cluster_map)]
    return {
        "points": points.astype(np.float32),
        "core_distances": np.ascontiguousarray(data.core_distances),  # a view of one column
        "tree_parent": tree["parent"].astype(np.int64),
        "tree_child": tree["child"].astype(np.int64),
        "tree_lambda": tree["lambda_val"].astype(np.float64),
        "tree_size": tree["child_size"].astype(np.int64),
        "cluster_nodes": np.array(nodes, dtype=np.int64),
        "labels": clusterer.labels_.astype(np.int32),
        "probabilities": clusterer.probabilities_.astype(np.float32),
    }


def embeddings(n: int, dim: int, clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit-norm rows in clouds, and the cloud of each; one in seven lies anywhere, its cloud is -1."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim))
    cloud = rng.integers(clusters, size=n)
    rows = centres[cloud] + 0.6 * rng.normal(size=(n, dim))
    anywhere = rng.random(n) < 1 / 7
    rows[anywhere] = rng.normal(size=(int(anywhere.sum()), dim))
    return unit_half(rows), np.where(anywhere, -1, cloud)


def frozen_pair(
    n: int = 600, dim: int = 24, clusters: int = 5, seed: int = 0, **umap: Any
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Arrays, those of `prepare` among them, and parameters of a small model."""
    rng = np.random.default_rng(seed + 1)
    rows, cloud = embeddings(n, dim, clusters, seed)
    centres = rng.normal(size=(clusters, UMAP["n_components"])) * 4
    inner = rows @ rng.normal(size=(dim, UMAP["n_components"])) * 0.4
    points = (centres[cloud] + inner).astype(np.float32)
    points[cloud < 0] = rng.uniform(-12, 12, size=(int((cloud < 0).sum()), points.shape[1]))
    clusterer = hdbscan.HDBSCAN(min_cluster_size=20, min_samples=5, prediction_data=True).fit(points)
    params = {
        "umap": {**UMAP, **umap},
        "hdbscan": {"min_cluster_size": 20, "min_samples": 5, "metric": "euclidean"},
        "novelty": {"threshold": 0.55, "middle": -0.1},
    }
    arrays = {"embeddings": rows.astype(np.float16), **tree_arrays(clusterer, points)}
    arrays |= prepare(arrays, params)
    arrays |= build_ivf(arrays["embeddings"], params["umap"]["n_neighbors"], least=30)  # more than one
    return arrays, params
