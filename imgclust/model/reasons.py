"""Why an image is in "other": it is novel, between clusters, or in a thin region.

By what the frozen predictor knows. **Novel**: judged as the model judges it, a training image by the others.
**In a thin region**: images are sparser around it than around 99 of 100 images in clusters, or no cluster is
a candidate. **Between clusters**: the rest; images are as dense there as in clusters, but which one it
belongs to does not show.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imgclust.predictor import novelty
from imgclust.predictor.batches import predict_batches
from imgclust.predictor.condensed_tree import ClusterTree
from imgclust.types import OTHER, Bools, Prediction

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel

KINDS = ("novel", "between", "thin")
SPARSEST = 0.01  # share of the images in clusters that stand in no denser place than a thin region


def kinds_of(model: ClusterModel, found: Prediction) -> list[str]:
    """The kind of each image in "other"; clusters as the arrays count them."""
    thin = thin_regions(model, found)
    return [str(kind) for kind in np.where(found.novel, KINDS[0], np.where(thin, KINDS[2], KINDS[1]))]


def thin_regions(model: ClusterModel, found: Prediction) -> Bools:
    """bool (m,): images that stand where images are sparser than nearly everywhere in clusters."""
    if not len(found):
        return np.empty(0, bool)
    arrays = model.arrays
    around = ClusterTree(arrays, model.parameters["hdbscan"]).predict(found.points).lambdas
    inside = arrays["core_distances"][arrays["labels"] != OTHER]
    widest = np.quantile(inside, 1 - SPARSEST) if len(inside) else np.inf
    thin: npt.NDArray[np.bool_] = (found.candidates[:, 0] < 0) | (around * widest < 1)
    return thin


def predicted_by_others(model: ClusterModel, rows: npt.NDArray[np.int64]) -> Prediction:
    """Training images, judged by the others: each is its own nearest, and would never be novel.

    Args:
        rows: of `arrays`.

    Returns:
        A prediction in the clusters that the arrays count; see `ClusterModel.shown`.
    """
    vectors = model.arrays["embeddings"][rows].astype(np.float32)
    table = {name: float(value) for name, value in model.parameters["novelty"].items()}
    nearest = novelty.nearest_other(model.arrays["embeddings"].astype(np.float32), rows)
    novel = novelty.judge(table, novelty.stored_mean_direction(model.arrays, table), vectors, nearest)
    found = predict_batches(model.predictor, vectors)
    return dataclasses.replace(found, similarities=nearest, novel=novel)
