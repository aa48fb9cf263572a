"""The settings on which the predictor is judged: data, split, fitted pair; built once, then cached.

Fitting is umap-learn's and hdbscan's own; nothing here is needed at prediction time.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imgclust import ClusterModel
from imgclust.types import EncoderIdentity, Preprocessing

HELD_OUT = 500


@dataclasses.dataclass(frozen=True)
class Data:
    """Unit-norm rows rounded to float16 values, and what they show."""

    train: np.ndarray
    train_categories: np.ndarray
    held_out: np.ndarray
    held_out_categories: np.ndarray


@dataclasses.dataclass(frozen=True)
class Setting:
    """One data set and the parameters of one fit; `load` gives embeddings and categories."""

    name: str
    load: Callable[[], tuple[np.ndarray, np.ndarray]]
    umap: Mapping[str, Any]
    hdbscan: Mapping[str, Any]

    def data(self) -> Data:
        """The data, split once and for all."""
        vectors, categories = self.load()
        order = np.random.default_rng(7).permutation(len(vectors))
        held, train = order[:HELD_OUT], order[HELD_OUT:]
        return Data(vectors[train], categories[train], vectors[held], categories[held])


def unit_half(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1 and round once to float16 values, as the encoder does."""
    unit = vectors / np.sqrt((vectors.astype(np.float64) ** 2).sum(1, keepdims=True))
    return unit.astype(np.float16).astype(np.float32)


def clipart() -> tuple[np.ndarray, np.ndarray]:
    """The example's pictures through the `mini` encoder."""
    from benchmarks.clipart import clipart as embedded

    data = embedded()
    return unit_half(data.rows), data.categories


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits of 8 × 8 pixels; the pixels are the embedding."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return unit_half(bunch.data), bunch.target


def synthetic(
    n: int, dim: int = 512, clusters: int = 60, seed: int = 1, part: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Curved low-dimensional clouds of very unequal size around grouped centres, with bridges and haze.

    One tenth of the rows lies between two clouds and three in a hundred lie far from all of them, so that
    "other" is a real class with unclear borders, as it is in pictures.

    Args:
        part: other rows of the same clouds, for sets that are made part by part.
    """
    rng = np.random.default_rng(seed)
    parents = rng.normal(size=(12, dim))
    centres = parents[rng.integers(12, size=clusters)] + 0.6 * rng.normal(size=(clusters, dim))
    share = rng.pareto(1.5, clusters) + 0.3
    label = rng.choice(clusters, n, p=share / share.sum())
    spread = rng.uniform(0.35, 0.8, clusters)
    bases = rng.normal(size=(clusters, 10, dim)).astype(np.float32)
    if part:
        rng = np.random.default_rng([seed, part])
        label = rng.choice(clusters, n, p=share / share.sum())
    out = np.empty((n, dim), np.float32)
    for c in range(clusters):
        rows = np.flatnonzero(label == c)
        z = rng.normal(size=(len(rows), 10))
        z[:, 5:] = 0.5 * z[:, :5] ** 2 - 0.5
        out[rows] = centres[c] + spread[c] * (z @ bases[c]) / np.sqrt(10) * 0.9
        out[rows] += 0.35 * rng.normal(size=(len(rows), dim))
    bridge = rng.random(n) < 0.1
    t = rng.uniform(0.2, 0.8, int(bridge.sum()))[:, None]
    out[bridge] = t * out[bridge] + (1 - t) * out[rng.permutation(np.flatnonzero(bridge))]
    haze = rng.random(n) < 0.03
    out[haze] = rng.normal(size=(int(haze.sum()), dim)) * 1.1
    label[haze] = clusters
    return unit_half(out), label


_SMALL_UMAP = {"n_neighbors": 15, "min_dist": 0.03, "n_components": 5, "random_state": 35}
_ARTICLE_UMAP = {"n_neighbors": 70, "n_epochs": 300, "min_dist": 0.03, "n_components": 5, "random_state": 35}

SETTINGS = {
    s.name: s
    for s in [
        Setting(
            "clipart", clipart, _SMALL_UMAP, {"min_cluster_size": 12, "cluster_selection_method": "leaf"}
        ),
        Setting("digits", digits, _SMALL_UMAP, {"min_cluster_size": 20, "cluster_selection_method": "leaf"}),
        Setting(
            "synthetic-20k",
            lambda: synthetic(20_000 + HELD_OUT),
            _ARTICLE_UMAP | {"n_neighbors": 30},
            {"min_cluster_size": 150, "cluster_selection_method": "leaf"},
        ),
        Setting(
            "synthetic-150k",
            lambda: synthetic(150_000 + HELD_OUT),
            _ARTICLE_UMAP,
            {"min_cluster_size": 1000, "alpha": 2.0, "cluster_selection_method": "leaf"},
        ),
        Setting(
            "clipart-repulsion",
            clipart,
            _SMALL_UMAP | {"repulsion_strength": 2.0, "negative_sample_rate": 15},
            {"min_cluster_size": 12, "cluster_selection_method": "leaf"},
        ),
        Setting(
            "digits-2d-cosine-eom",
            digits,
            _SMALL_UMAP | {"n_components": 2, "min_dist": 0.1, "metric": "cosine"},
            {"min_cluster_size": 20, "min_samples": 5, "cluster_selection_method": "eom"},
        ),
        Setting(
            "clipart-10d-wide",
            clipart,
            _SMALL_UMAP | {"n_components": 10, "min_dist": 0.3, "n_neighbors": 30},
            {"min_cluster_size": 12, "min_samples": 5, "cluster_selection_method": "eom"},
        ),
    ]
}


def fitted(name: str, cache: Path) -> tuple[Any, Any, Data]:
    """The fitted (UMAP, HDBSCAN) pair of a setting and its data; pickled, which only benchmarks do."""
    setting = SETTINGS[name]
    path = cache / f"{name}.pickle"
    data = setting.data()
    if not path.exists():
        import hdbscan
        import umap

        cache.mkdir(parents=True, exist_ok=True)
        reducer = umap.UMAP(**setting.umap).fit(data.train)
        clusterer = hdbscan.HDBSCAN(**setting.hdbscan, prediction_data=True).fit(reducer.embedding_)
        path.write_bytes(pickle.dumps((reducer, clusterer)))
    return *pickle.loads(path.read_bytes()), data


def frozen(name: str, cache: Path) -> ClusterModel:
    """The setting's pair, frozen by `ClusterModel.from_fitted`; saved in `cache`."""
    path = cache / f"model-{name}"
    if not path.exists():
        reducer, clusterer, _ = fitted(name, cache)
        ClusterModel.from_fitted(reducer, clusterer, novelty=0.5).save(path)  # not what is measured with it
    return ClusterModel.load(path)


def with_encoder(name: str, cache: Path, side: int) -> ClusterModel:
    """The setting's frozen pair with an encoder that is made up, so that a worker takes it.

    Args:
        side: of the encoder's pictures, in pixels.
    """
    model = frozen(name, cache)
    encoder = EncoderIdentity("made-up", "none", "0" * 64, Preprocessing(side, side), "float32", model.dim)
    return dataclasses.replace(model, encoder=encoder, known_version=None)


def for_a_worker(name: str, cache: Path) -> Path:
    """The folder of a model like that, for pictures of 224 pixels; saved in `cache`."""
    path = cache / f"worker-model-{name}"
    if not path.exists():
        with_encoder(name, cache, 224).save(path)
    return path
