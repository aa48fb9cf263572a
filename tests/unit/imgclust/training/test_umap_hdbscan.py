"""What a fit leaves behind for the next process."""

from __future__ import annotations

import importlib
import warnings

import numba
import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from imgclust.model.model import ClusterModel
from imgclust.training.neighbours import nearest_rows
from imgclust.training.parameters import Parameters
from imgclust.training.umap_hdbscan import COMPILED, fit_hdbscan, fit_umap, keep_compiled
from tests.support.fitted import SMALL, grouped


@pytest.mark.parametrize(("module", "name"), COMPILED)
def test_compiled_functions_are_kept(module: str, name: str) -> None:
    """umap still has each of them, and numba has a folder for what it compiles of it."""
    keep_compiled()
    function = getattr(importlib.import_module(module), name)
    assert function.stats.cache_path is not None


def test_nothing_is_kept_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only installation of a user without a home folder fits as before."""

    def refuse(self: object) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(numba.core.registry.CPUDispatcher, "enable_caching", refuse)
    keep_compiled()


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
