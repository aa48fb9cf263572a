"""The yardstick: rebuilt objects answer as the fitted ones do."""

from __future__ import annotations

import hdbscan
import numpy as np
import pytest

from imgclust.model.freeze import freeze, selected_nodes
from imgclust.predictor.reference import TREE, ReferencePredictor, best_candidates
from imgclust.training.coassociation import Refit, Refits
from imgclust.training.reweighted_umap import ReweightedUMAP
from tests.support import fitted


@pytest.fixture(scope="module")
def pair() -> tuple:
    return fitted.fitted_pair()


@pytest.fixture(scope="module")
def rebuilt(pair: tuple) -> ReferencePredictor:
    parts = freeze(*pair[:2])
    arrays, parameters = parts.arrays, parts.parameters
    return ReferencePredictor(arrays, parameters)


def test_rebuilt_objects_answer_as_the_fitted_ones(pair: tuple, rebuilt: ReferencePredictor) -> None:
    """Points, labels, probabilities and soft memberships of new rows are the same, to the last bit."""
    reducer, clusterer, _ = pair
    rows, _ = fitted.grouped(seed=5, each=2)
    found = rebuilt.predict(rows)
    points = np.concatenate([reducer.transform(row[None]) for row in rows])
    labels, probabilities = hdbscan.approximate_predict(clusterer, points)
    np.testing.assert_array_equal(found.points, points)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.probabilities, probabilities.astype(np.float32))
    with np.errstate(invalid="ignore"):
        memberships = np.nan_to_num(hdbscan.membership_vector(clusterer, points))
    np.testing.assert_array_equal(found.scores[:, 0], memberships.max(axis=1).astype(np.float32))


def test_training_rows_are_placed_and_not_looked_up(pair: tuple, rebuilt: ReferencePredictor) -> None:
    """`UMAP.transform` returns the stored points for exactly its training array; the rebuilt one computes."""
    reducer = pair[0]
    np.testing.assert_array_equal(reducer.transform(reducer._raw_data), reducer.embedding_)
    computed = rebuilt.umap.transform(reducer._raw_data)
    assert not np.array_equal(computed, reducer.embedding_)


def test_the_weights_of_a_consensus_are_not_needed(pair: tuple) -> None:
    """New rows are placed by the points alone, whatever was drawn together: to the last bit."""
    rows, group = fitted.grouped()
    everything = np.arange(len(rows))
    halves = (2 * group + everything % 2).astype(np.int32)
    votes = Refits.of(len(rows), [Refit(everything, halves, np.empty(0))], least=2)
    reducer = ReweightedUMAP(**pair[0].get_params())
    reducer.shares = (votes.left_of_edges,)
    reducer.fit(rows)
    assert not np.array_equal(reducer.embedding_, pair[0].embedding_)
    clusterer = hdbscan.HDBSCAN(min_cluster_size=8, min_samples=5, prediction_data=True)
    parts = freeze(reducer, clusterer.fit(reducer.embedding_))
    new, _ = fitted.grouped(seed=5, each=1)
    found = ReferencePredictor(parts.arrays, parts.parameters).predict(new).points
    np.testing.assert_array_equal(found, np.concatenate([reducer.transform(row[None]) for row in new]))


def test_seeds_are_told_apart(pair: tuple) -> None:
    """Another transform seed gives other points: the spread that the yardstick has is in reach of a test."""
    parts = freeze(*pair[:2])
    arrays, parameters = parts.arrays, parts.parameters
    rows, _ = fitted.grouped(seed=5, each=1)
    one = ReferencePredictor(arrays, parameters, transform_seed=1).predict(rows)
    two = ReferencePredictor(arrays, parameters, transform_seed=2).predict(rows)
    assert not np.array_equal(one.points, two.points)


def test_nothing_to_predict(rebuilt: ReferencePredictor) -> None:
    """No rows: no predictions, of the right shapes."""
    found = rebuilt.predict(np.empty((0, fitted.DIM), np.float32))
    assert len(found) == 0
    assert found.points.shape == (0, 3)


def test_candidates_are_sorted_and_padded() -> None:
    """At most three clusters, best first; clusters without membership are no candidates."""
    candidates, scores = best_candidates(np.array([[0.1, 0.5, 0.0, 0.3], [0.0, 0.0, 0.2, 0.0]]))
    assert candidates.tolist() == [[1, 3, 0], [2, -1, -1]]
    np.testing.assert_allclose(scores, [[0.5, 0.3, 0.1], [0.2, 0, 0]], rtol=1e-6)
    candidates, scores = best_candidates(np.array([[0.4]]))
    assert candidates.tolist() == [[0, -1, -1]]


def test_selected_nodes_are_hdbscans_where_it_is_right(pair: tuple) -> None:
    """For a fit whose clusters all lose points themselves, the nodes are those that hdbscan names."""
    clusterer = pair[1]
    tree = clusterer.condensed_tree_._raw_tree
    nodes = selected_nodes(tree, clusterer.labels_)
    assert nodes.tolist() == [int(node) for node in clusterer.condensed_tree_._select_clusters()]


def test_selected_nodes_of_a_cluster_that_only_splits() -> None:
    """A cluster whose node splits before it loses a point is that node, not one of the halves.

    hdbscan 0.8.44 takes the smaller half, and calls new points in the other half "other".
    """
    rows = [(6, 7, 1.0, 4), (6, 4, 1.0, 1), (6, 5, 1.0, 1), (7, 8, 2.0, 2), (7, 9, 2.0, 2)]
    rows += [(8, 0, 3.0, 1), (8, 1, 3.0, 1), (9, 2, 3.0, 1), (9, 3, 3.0, 1)]
    tree = np.array(rows, TREE)
    labels = np.array([0, 0, 0, 0, -1, -1], np.int32)
    assert selected_nodes(tree, labels).tolist() == [7]
