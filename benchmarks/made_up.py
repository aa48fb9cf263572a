"""A frozen model that is made up: the shape of a real one, without the minutes or hours of a fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from imgclust.predictor.predictor import FrozenPredictor
from imgclust.predictor.prepare import prepare
from imgclust.types import Floats, Prediction

NEIGHBOURS, MIN_SAMPLES = 70, 1000  # of the article's model
_SPREAD = 0.8  # of a cloud, as a share of the distance between clouds
_PART = 8192  # rows at once

Arrays = dict[str, np.ndarray]
Parameters = dict[str, dict[str, Any]]


def made_up(n: int, centres: Floats, others: int, min_samples: int) -> tuple[Arrays, Parameters, Floats]:
    """A model of clouds around centres in both spaces, a cluster for each, and rows like its training rows.

    Args:
        n: training rows.
        centres: (clusters, dim).
        others: further rows of the same clouds.

    Returns:
        Arrays and parameters as `FrozenPredictor` takes them; float32 (others, dim).
    """
    clusters, dim = centres.shape
    rng = np.random.default_rng(0)
    cloud = rng.integers(clusters, size=n + others)
    spread = _SPREAD * float(centres.std(0).mean())
    rows = np.empty((n + others, dim), dtype=np.float16)
    for i in range(0, len(rows), _PART):
        part = centres[cloud[i : i + _PART]]
        part = part + spread * rng.standard_normal(part.shape, dtype=np.float32)
        rows[i : i + _PART] = part / np.sqrt((part * part).sum(1, keepdims=True))
    places = rng.uniform(0, 15, size=(clusters, 5))[cloud[:n]] + 0.5 * rng.normal(size=(n, 5))
    arrays = {
        "embeddings": rows[:n],
        "points": places.astype(np.float32),
        "core_distances": rng.uniform(0.35, 0.6, n),
        "labels": cloud[:n].astype(np.int32),
        "probabilities": np.ones(n, np.float32),
        **_chain(cloud[:n], clusters, min_samples, rng),
    }
    umap = {
        "n_neighbors": min(NEIGHBOURS, n // 4), "metric": "euclidean", "a": 1.82, "b": 0.82,
        "negative_sample_rate": 5, "repulsion_strength": 1.0, "n_epochs": 300, "learning_rate": 1.0,
        "local_connectivity": 1.0,
    }  # fmt: skip
    hdbscan = {"min_samples": min_samples, "min_cluster_size": min_samples, "metric": "euclidean"}
    params: Parameters = {"umap": umap, "hdbscan": hdbscan, "novelty": {"threshold": 0.3}}
    return {**arrays, **prepare(arrays, params)}, params, rows[n:].astype(np.float32)


def _chain(cloud: np.ndarray, clusters: int, size: int, rng: np.random.Generator) -> Arrays:
    """A condensed tree: node n + 2 i + 1 holds cloud i, node n + 2 i + 2 the clouds after it."""
    n, inner = len(cloud), np.arange(clusters - 1)
    spine, leaf = n + np.append(0, 2 * inner[:-1] + 2), n + 2 * inner + 1
    last = n + 2 * inner[-1] + 2
    node = np.append(leaf, last)
    split = np.linspace(0.5, 1.0, clusters - 1)
    return {
        "tree_parent": np.concatenate([spine, spine, node[cloud]]).astype(np.int64),
        "tree_child": np.concatenate([leaf, np.append(spine[1:], last), np.arange(n)]).astype(np.int64),
        "tree_lambda": np.concatenate([split, split, rng.uniform(1.1, 2.5, n)]),
        "tree_size": np.concatenate([np.full(2 * len(split), size), np.ones(n, np.int64)]).astype(np.int64),
        "cluster_nodes": np.sort(node).astype(np.int64),
    }


class MadeUpModel:
    """What the worker needs of a model: `worker.tagger.prediction.Model`."""

    version = taxonomy = "0123456789ab"
    clusters: tuple[Any, ...] = ()
    reference = None

    def __init__(self, predictor: FrozenPredictor) -> None:
        self._predictor = predictor

    def predict(self, embeddings: Floats) -> Prediction:
        return self._predictor.predict(embeddings)
