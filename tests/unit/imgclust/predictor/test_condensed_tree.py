"""Given the same low-dimensional points: the answers of `hdbscan.approximate_predict` itself."""

from __future__ import annotations

import warnings
from typing import Any

import hdbscan
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from imgclust.predictor.condensed_tree import ClusterTree
from imgclust.predictor.kdtree import KDTree, build_order
from imgclust.predictor.soft_membership import MOST_EXEMPLARS, SoftMembership
from tests.support.frozen_pair import tree_arrays

warnings.filterwarnings("ignore", module="hdbscan")


def fitted(points: np.ndarray, **params: Any) -> tuple[hdbscan.HDBSCAN, ClusterTree]:
    clusterer = hdbscan.HDBSCAN(**params, prediction_data=True).fit(points)
    arrays = {**tree_arrays(clusterer, points), "kd_order": build_order(points)}
    return clusterer, ClusterTree(
        arrays, {"min_samples": clusterer.min_samples, "min_cluster_size": clusterer.min_cluster_size}
    )


def clouds(seed: int, n: int, dim: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, dim)) * rng.uniform(0.5, 4)
    return (centres[rng.integers(count, size=n)] + rng.uniform(0.1, 1) * rng.normal(size=(n, dim))).astype(
        np.float32
    )


def queries(seed: int, points: np.ndarray) -> np.ndarray:
    """Training points themselves, points near them, and points anywhere."""
    rng = np.random.default_rng(seed)
    near = points[rng.integers(len(points), size=60)]
    jitter = rng.normal(size=near.shape) * 0.3
    anywhere = rng.normal(size=(60, points.shape[1])) * 5
    return np.concatenate([points[:20], near + jitter, anywhere]).astype(np.float32)


def assert_same(clusterer: hdbscan.HDBSCAN, tree: ClusterTree, points: np.ndarray) -> None:
    """But where the whole is the only cluster: what is sparser than all that the fit put there is "other"."""
    labels, probabilities = hdbscan.approximate_predict(clusterer, points)
    found = tree.predict(points)
    if tree.clusters.root in tree.clusters.selected:
        left = clusterer._condensed_tree[clusterer._condensed_tree["child_size"] == 1]
        least = left["lambda_val"][clusterer.labels_[left["child"]] >= 0].min()
        inside = found.lambdas >= least
        np.testing.assert_array_equal(found.labels, np.where(inside, 0, -1))
        labels, probabilities = found.labels, np.where(inside, probabilities, 0.0)
        if tree.clusters.empty:  # hdbscan calls all of it "other"
            probabilities = found.probabilities
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.probabilities, probabilities, rtol=0, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(60, 500),
    dim=st.integers(2, 10),
    count=st.integers(1, 7),
    size=st.integers(3, 25),
    samples=st.sampled_from([1, 2, 5, 15, 30]),
    method=st.sampled_from(["leaf", "eom"]),
    epsilon=st.sampled_from([0.0, 0.3, 1.0]),
    largest=st.sampled_from([0, 60]),
    single=st.booleans(),
    repeated=st.booleans(),
)
def test_labels_and_probabilities_are_hdbscans(
    seed: int, n: int, dim: int, count: int, size: int, samples: int, method: str, epsilon: float,
    largest: int, single: bool, repeated: bool,
) -> None:  # fmt: skip
    """Labels equal, probabilities to 1e-9, for any fit: leaf and eom, with and without its options, and with
    a third of the training points repeated."""
    points = clouds(seed, n, dim, count)
    if repeated:
        rng = np.random.default_rng(seed)
        points[rng.integers(n, size=n // 3)] = points[rng.integers(n, size=n // 3)]
    clusterer, tree = fitted(
        points,
        min_cluster_size=size,
        min_samples=samples,
        cluster_selection_method=method,
        cluster_selection_epsilon=epsilon,
        max_cluster_size=largest,
        allow_single_cluster=single,
    )
    assert_same(clusterer, tree, queries(seed + 1, points))


@pytest.mark.parametrize("samples", [None, 1, 300, 1000])
def test_many_neighbours(samples: int | None) -> None:
    """min_samples from 1 to 1,000, and its default, min_cluster_size; hdbscan asks for twice as many."""
    points = clouds(4, 2400, 5, 4)
    clusterer, tree = fitted(points, min_cluster_size=100, min_samples=samples)
    assert_same(clusterer, tree, queries(5, points))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3, 10]))
def test_on_a_grid_the_distances_are_hdbscans(seed: int, samples: int) -> None:
    """Where many points are equally near, the distance at which a point joins is hdbscan's, and the label is
    one that hdbscan gives at one of the equally near points."""
    points = np.round(clouds(seed, 300, 3, 3) * 2) / 2
    clusterer, tree = fitted(points, min_cluster_size=10, min_samples=samples)
    asked = np.round(queries(seed, points) * 2) / 2
    labels, _, rows = hdbscan.approximate_predict(clusterer, asked, return_connecting_points=True)
    found = tree.predict(asked)
    core = clusterer.prediction_data_.core_distances
    for i in np.flatnonzero(found.labels != labels):
        apart = points[[rows[i], found.neighbours[i]]].astype(np.float64) - asked[i]
        gaps = np.linalg.norm(apart, axis=1)
        own = 1 / found.lambdas[i]
        assert max(gaps[0], core[rows[i]]) <= own + 1e-9
        assert max(gaps[1], core[found.neighbours[i]]) <= own + 1e-9


@pytest.mark.parametrize("apart", [1e-3, 1.0, 1e4])
def test_where_points_repeat_few_radii_are_tried(apart: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A point whose neighbours up to min_samples lie where it lies says nothing of how far the others are."""
    points = np.repeat(clouds(2, 100, 3, 3) * np.float32(apart), 3, axis=0)
    clusterer, tree = fitted(points, min_cluster_size=10, min_samples=3)
    walks = []
    within = tree.index.within
    monkeypatch.setattr(tree.index, "within", lambda *args: walks.append(args) or within(*args))
    assert_same(clusterer, tree, points[::7])
    assert len(walks) < 60


def test_points_are_checked() -> None:
    """Another dimension, or a coordinate that is not finite, is refused."""
    _, tree = fitted(clouds(0, 100, 3, 2), min_cluster_size=5)
    with pytest.raises(ValueError, match=r"shape \(m, 3\)"):
        tree.predict(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="point 1"):
        tree.predict(np.array([[0, 0, 0], [0, np.nan, 0]]))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), method=st.sampled_from(["leaf", "eom"]))
def test_scores_are_hdbscans_soft_membership(seed: int, method: str) -> None:
    """With no more exemplars than are compared, the scores are those of `hdbscan.membership_vector`."""
    points = clouds(seed, 400, 3, 4)
    clusterer, tree = fitted(points, min_cluster_size=12, min_samples=4, cluster_selection_method=method)
    if len(tree.clusters.selected) < 2:
        return
    assume(max(map(len, clusterer.prediction_data_.exemplars)) <= MOST_EXEMPLARS)
    soft = SoftMembership(points, build_order(points), tree.clusters)
    asked = queries(seed, points)[20:]
    expected = np.nan_to_num(hdbscan.membership_vector(clusterer, asked))
    np.testing.assert_allclose(soft.scores(asked, tree.predict(asked)), expected, rtol=1e-5, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 400), dim=st.integers(1, 6))
def test_a_tree_finds_all_within_a_radius(seed: int, n: int, dim: int) -> None:
    """No point within the radius is missed and none beyond it is found, for repeated points too."""
    rng = np.random.default_rng(seed)
    points = np.round(rng.normal(size=(n, dim)), 1).astype(np.float32)
    asked, radius = rng.normal(size=(7, dim)), rng.uniform(0, 2, 7)
    query, row, distance = KDTree(points, build_order(points)).within(asked, radius)
    exact = np.sqrt(((asked[:, None] - points.astype(np.float64)) ** 2).sum(2))
    assert set(zip(query.tolist(), row.tolist(), strict=True)) == set(
        zip(*(part.tolist() for part in np.nonzero(exact <= radius[:, None])), strict=True)
    )
    np.testing.assert_allclose(distance, exact[query, row], rtol=1e-12)
