"""UMAP and HDBSCAN, fitted as the parameters say."""

from __future__ import annotations

import functools
from typing import Any

from imgclust.support.progress import umap_progress
from imgclust.training.before import Before
from imgclust.training.coassociation import Refits
from imgclust.training.labelled_umap import left_of_edges
from imgclust.training.neighbours import nearest_rows
from imgclust.training.parameters import Parameters
from imgclust.types import Floats

WARM_EPOCHS, WARM_RATE = 3, 0.25  # part of the epochs, and learning rate, from places that are nearly right


def fit_umap(
    rows: Floats,
    p: Parameters,
    tell: Any = None,
    before: Before | None = None,
    refits: Refits | None = None,
) -> Any:
    """A fitted `umap.UMAP`.

    Args:
        before: what a model before this one says of the rows. They start from its places and are moved
            little (fewer epochs, at a lower rate), and its clusters are kept apart.
        refits: what fits on samples of the rows say: the clusters that they agree on are kept apart.
    """
    from imgclust.placing.quick_umap import calmly, keep_compiled
    from imgclust.training.reweighted_umap import ReweightedUMAP

    keep_compiled()
    with calmly():
        start = None if before is None else before.places(p.n_components)
        warm = {} if start is None else {"init": start.copy()}
        reducer = ReweightedUMAP(
            n_neighbors=p.n_neighbors,
            n_components=p.n_components,
            min_dist=p.min_dist,
            n_epochs=p.n_epochs if start is None else max(10, p.n_epochs // WARM_EPOCHS),
            learning_rate=1.0 if start is None else WARM_RATE,
            metric=p.metric,
            random_state=p.random_state,
            n_jobs=1,
            precomputed_knn=nearest_rows(rows, p.n_neighbors, p.metric),
            **warm,
            **(umap_progress(tell) if tell else {}),
        )
        reducer.tell = tell
        if before is not None:
            reducer.shares += (functools.partial(left_of_edges, before),)
        if refits is not None:
            reducer.shares += (refits.left_of_edges,)
        reducer.fit(rows)
    reducer.tell = None
    reducer.n_epochs, reducer.learning_rate = p.n_epochs, 1.0  # as new images are placed, however it began
    return reducer


def fit_hdbscan(
    points: Floats, p: Parameters, *, prediction_data: bool = True, validity: bool = False
) -> Any:
    """A fitted HDBSCAN; where the method is "stable", only its tree matters, not its labels.

    Args:
        prediction_data: keep what `freeze` needs.
        validity: keep what hdbscan's `relative_validity_` needs.
    """
    from imgclust.training.threaded_hdbscan import ThreadedHDBSCAN

    limited = p.cluster_selection_method == "eom" and p.max_cluster_share < 1
    return ThreadedHDBSCAN(
        min_cluster_size=p.min_cluster_size,
        min_samples=p.min_samples,
        cluster_selection_method="leaf" if p.cluster_selection_method == "leaf" else "eom",
        max_cluster_size=int(p.max_cluster_share * len(points)) if limited else 0,
        prediction_data=prediction_data,
        gen_min_span_tree=validity,
    ).fit(points)
