"""Training embeddings → a fitted UMAP and HDBSCAN."""

from __future__ import annotations

import warnings
from typing import Any

from threadpoolctl import threadpool_limits

from imgclust.errors import FitError
from imgclust.support.progress import Stages, umap_progress
from imgclust.training.parameters import Cost, Parameters
from imgclust.types import Floats


def fit_pair(rows: Floats, p: Parameters, cost: Cost, stages: Stages) -> tuple[Any, Any]:
    """Fit UMAP and, on its points, HDBSCAN.

    Args:
        rows: float32 (n, d), unit-norm, of float16 values.
        cost: reported before the long part begins.
        stages: are told what is going on.

    Raises:
        FitError: no cluster was found.
    """
    expected = f"all in all about {cost.memory / 1e9:.1f} GB and {max(1, round(cost.seconds / 60))} min"
    with stages.stage("umap", f"{len(rows)} images, {p.n_epochs} epochs; {expected}") as tell:
        reducer = fit_umap(rows, p, tell)
    with stages.stage("hdbscan", f"{len(rows)} images, min_samples {p.min_samples}"):
        clusterer = fit_hdbscan(reducer.embedding_, p)
    if clusterer.labels_.max() < 0:
        raise FitError(
            f"no cluster was found among {len(rows)} images: give more images, or lower min_cluster_size "
            f"(now {p.min_cluster_size}) or min_samples (now {p.min_samples})"
        )
    return reducer, clusterer


def fit_umap(rows: Floats, p: Parameters, tell: Any = None) -> Any:
    """A fitted `umap.UMAP`."""
    import umap

    # its many small products gain nothing from BLAS's threads, which wait for each other spinning
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value")  # a fixed random state uses one thread
        return umap.UMAP(
            n_neighbors=p.n_neighbors,
            n_components=p.n_components,
            min_dist=p.min_dist,
            n_epochs=p.n_epochs,
            metric=p.metric,
            random_state=p.random_state,
            n_jobs=1,
            **(umap_progress(tell) if tell else {}),
        ).fit(rows)


def fit_hdbscan(points: Floats, p: Parameters) -> Any:
    """A fitted `hdbscan.HDBSCAN` with prediction data."""
    import hdbscan

    return hdbscan.HDBSCAN(
        min_cluster_size=p.min_cluster_size,
        min_samples=p.min_samples,
        cluster_selection_method=p.cluster_selection_method,
        prediction_data=True,
        core_dist_n_jobs=1,
    ).fit(points)
