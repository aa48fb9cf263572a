"""UMAP and HDBSCAN are fitted with the neighbours that they are given."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.metrics import adjusted_mutual_info_score

from imgclust.model.model import ClusterModel
from imgclust.training.neighbours import nearest_rows
from imgclust.training.parameters import Parameters
from imgclust.training.umap_hdbscan import fit_hdbscan, fit_umap
from tests.support.fitted import SMALL, grouped


def test_umap_takes_the_neighbours_that_it_is_given() -> None:
    """It compares no pairs itself, and searches for none; the pair freezes and predicts as any other."""
    rows, group = grouped()
    p = Parameters.for_size(len(rows)).replaced(SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reducer = fit_umap(rows, p)
    found, distances = nearest_rows(rows, p.n_neighbors, p.metric)
    np.testing.assert_array_equal(reducer._knn_indices, found)
    np.testing.assert_array_equal(reducer._knn_dists, distances)
    model = ClusterModel.from_fitted(reducer, fit_hdbscan(reducer.embedding_, p))
    assert adjusted_mutual_info_score(group, model.predict(rows).labels) > 0.9
    np.testing.assert_array_equal(fit_umap(rows, p).embedding_, reducer.embedding_)
