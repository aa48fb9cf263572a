"""Training embeddings → a fitted UMAP and HDBSCAN, and the clusters that were chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from imgclust.predictor.batches import predict_batches
from imgclust.support.progress import Stages
from imgclust.training.parameters import Cost, Parameters
from imgclust.training.selection import Selection, select
from imgclust.training.umap_hdbscan import fit_hdbscan, fit_umap
from imgclust.types import OTHER, Floats, Ints, Predictor


@dataclasses.dataclass(frozen=True, slots=True)
class Before:
    """What a previous model says of the training images.

    Attributes:
        labels: int32 (n,); as its arrays count clusters; "other", too, what is unlike all that it knows.
        points: float32 (n, d).
    """

    labels: Ints
    points: Floats

    @classmethod
    def of(cls, predictor: Predictor, rows: Floats, progress: Callable[[float], None]) -> Before:
        """Ask the previous model's predictor."""
        found = predict_batches(
            predictor, rows, progress=lambda done: progress(done / len(rows))
        ).unassigned()
        return cls(np.where(found.novel, np.int32(OTHER), found.labels), found.points)

    def places(self, dimensions: int) -> Floats | None:
        """Where UMAP may start; None where the previous one had another number of dimensions."""
        return self.points if self.points.shape[1] == dimensions else None


def group(
    rows: Floats, p: Parameters, cost: Cost, stages: Stages, before: Before | None = None
) -> tuple[Any, Any, Selection]:
    """Fit UMAP and, on its points, HDBSCAN; choose clusters from its tree.

    Args:
        rows: float32 (n, d), unit-norm, of float16 values.
        cost: reported before the long part begins.
        stages: are told what is going on.
        before: what the previous model says of the rows, in a fit that continues its taxonomy: UMAP starts
            from its places, and its clusters are preferred.

    Raises:
        FitError: no cluster was found.
    """
    expected = f"all in all about {cost.memory / 1e9:.1f} GB and {max(1, round(cost.seconds / 60))} min"
    with stages.stage("umap", f"{len(rows)} images, {p.n_epochs} epochs; {expected}") as tell:
        reducer = fit_umap(rows, p, tell, None if before is None else before.places(p.n_components))
    with stages.stage("hdbscan", f"{len(rows)} images, min_samples {p.min_samples}"):
        clusterer = fit_hdbscan(reducer.embedding_, p)
    with stages.stage("stability", f"{p.refits} samples of the images, clustered again") as tell:
        selection = select(clusterer, reducer.embedding_, p, tell, None if before is None else before.labels)
    return reducer, clusterer, selection
