"""HDBSCAN on all cores finds what hdbscan finds on one."""

from __future__ import annotations

from typing import Any

import hdbscan
import numpy as np
import pytest

from imgclust.placing import near_points
from imgclust.training import threaded_hdbscan
from imgclust.training.threaded_hdbscan import ThreadedHDBSCAN


def clouds(n: int, dim: int = 5) -> np.ndarray:
    rng = np.random.default_rng(n)
    return (rng.normal(size=(8, dim))[rng.integers(8, size=n)] * 4 + rng.normal(size=(n, dim))).astype(
        np.float32
    )


@pytest.mark.parametrize(
    "given",
    [
        {"min_cluster_size": 15, "min_samples": 7, "prediction_data": True},
        {"min_cluster_size": 20, "cluster_selection_method": "leaf", "gen_min_span_tree": True},
        {"min_cluster_size": 10, "max_cluster_size": 60, "min_samples": 1, "prediction_data": True},
        {"min_cluster_size": 350, "min_samples": 350, "prediction_data": True},
    ],
)
def test_the_same_tree_and_labels(given: dict[str, Any]) -> None:
    points = clouds(700)
    expected, found = (kind(**given).fit(points) for kind in (hdbscan.HDBSCAN, ThreadedHDBSCAN))
    for name in (
        "labels_",
        "probabilities_",
        "cluster_persistence_",
        "_condensed_tree",
        "_single_linkage_tree",
    ):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    assert (expected.labels_ >= 0).any() or given["min_cluster_size"] == 350
    if given.get("prediction_data"):
        np.testing.assert_array_equal(
            found.prediction_data_.core_distances, expected.prediction_data_.core_distances
        )
    if given.get("gen_min_span_tree"):
        assert found.relative_validity_ == expected.relative_validity_


def test_many_axes_are_hdbscans_own() -> None:
    points = clouds(200, threaded_hdbscan.MOST_AXES + 1)
    one, other = (
        kind(min_cluster_size=10).fit(points).labels_ for kind in (hdbscan.HDBSCAN, ThreadedHDBSCAN)
    )
    np.testing.assert_array_equal(one, other)


def test_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    points, found = clouds(3000), []
    for cores in (1, 3):
        monkeypatch.setattr(near_points, "available_cores", lambda cores=cores: cores)
        found.append(ThreadedHDBSCAN(min_cluster_size=40).fit(points))
    np.testing.assert_array_equal(found[0]._condensed_tree, found[1]._condensed_tree)
