"""Clusters are the nodes of the condensed tree that other samples of the images show again."""

from __future__ import annotations

import itertools

import hdbscan
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from imgclust.errors import FitError
from imgclust.model.freeze import chosen_clusters, selected_nodes
from imgclust.training.antichains import antichain, counted_antichain
from imgclust.training.before import Before
from imgclust.training.hierarchy import Hierarchy, best_jaccard, found_again
from imgclust.training.parameters import Parameters
from imgclust.training.selection import point_samples, select, values
from imgclust.training.umap_hdbscan import fit_hdbscan
from tests.support.frozen_pair import tree_arrays


def blobs(centres: int, each: int, spread: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middle = rng.permutation(np.stack(np.meshgrid(*[np.arange(4.0)] * 2), -1).reshape(-1, 2))[:centres] * 5
    return np.concatenate([m + spread * rng.normal(size=(each, 2)) for m in middle]).astype(np.float32)


def parameters(**others: object) -> Parameters:
    return Parameters(**{"n_neighbors": 15, "min_cluster_size": 10, "min_samples": 5, **others})  # type: ignore[arg-type]


@st.composite
def hierarchies(draw: st.DrawFn) -> Hierarchy:
    """Any tree of up to nine nodes, with up to thirty points anywhere in it."""
    k = draw(st.integers(1, 9))
    parents = [draw(st.integers(0, node - 1)) for node in range(1, k)]
    points = draw(st.lists(st.integers(0, k - 1), min_size=1, max_size=30))
    n = len(points)
    rows = [(n + p, n + c, 1.0, 2) for c, p in enumerate(parents, 1)]
    rows += [(n + node, point, 1.0, 1) for point, node in enumerate(points)]
    rows.append((n, n, 1.0, 1)) if not any(p == 0 for p in points) and k == 1 else None
    kinds = [("parent", np.intp), ("child", np.intp), ("lambda_val", float), ("child_size", np.intp)]
    rows = sorted(rows)
    if rows[0][0] != n:  # the root holds something, as in every condensed tree
        rows[0] = (n, *rows[0][1:])
    return Hierarchy.of(np.array(rows, kinds))


def above(hierarchy: Hierarchy, node: int) -> set[int]:
    found = set()
    while node >= 0:
        found.add(node)
        node = int(hierarchy.parent[node])
    return found


@given(hierarchies(), st.integers(0, 2**31))
def test_no_other_antichain_is_worth_more(hierarchy: Hierarchy, seed: int) -> None:
    """Against all sets of nodes of which none is above another: the choice is one of the best."""
    k = len(hierarchy.parent)
    value = np.random.default_rng(seed).integers(-3, 6, k).astype(float)
    chosen = antichain(hierarchy, value)
    ways = [above(hierarchy, node) for node in range(k)]

    def allowed(nodes: tuple[int, ...]) -> bool:
        return all(a not in ways[b] and b not in ways[a] for a, b in itertools.combinations(nodes, 2))

    best = max(
        sum(value[list(nodes)])
        for size in range(k)
        for nodes in itertools.combinations(range(1, k), size)
        if allowed(nodes)
    )
    assert allowed(tuple(chosen.tolist()))
    assert 0 not in chosen
    assert value[chosen].sum() == best


@given(hierarchies(), st.integers(0, 2**31), st.integers(1, 6), st.integers(0, 5))
def test_no_other_antichain_of_so_many_nodes_is_worth_more(
    hierarchy: Hierarchy, seed: int, least: int, more: int
) -> None:
    """Against all sets of so many nodes, where there are any; else against those of the most there are."""
    k, most = len(hierarchy.parent), least + more
    rng = np.random.default_rng(seed)
    value = np.where(rng.random(k) < 0.15, -np.inf, rng.normal(size=k))
    chosen = counted_antichain(hierarchy, value, least, most)
    ways = [above(hierarchy, node) for node in range(k)]
    there = [
        nodes
        for size in range(k)
        for nodes in itertools.combinations(np.flatnonzero(np.isfinite(value[1:])) + 1, size)
        if all(a not in ways[b] and b not in ways[a] for a, b in itertools.combinations(nodes, 2))
    ]
    within = [nodes for nodes in there if least <= len(nodes) <= most]
    if not within:
        largest = max(map(len, there))
        within = [nodes for nodes in there if len(nodes) == largest]
    assert tuple(chosen) in within
    assert value[chosen].sum() == pytest.approx(max(value[list(nodes)].sum() for nodes in within))


@given(hierarchies(), st.integers(0, 2**31))
def test_no_bound_changes_the_choice_that_meets_it(hierarchy: Hierarchy, seed: int) -> None:
    """The best of all sets is the best of those with as many nodes."""
    value = np.random.default_rng(seed).normal(size=len(hierarchy.parent))
    best = antichain(hierarchy, value)
    np.testing.assert_array_equal(counted_antichain(hierarchy, value, len(best), len(best)), best)


@given(hierarchies(), st.integers(0, 2**31))
def test_jaccard_is_that_of_the_sets(hierarchy: Hierarchy, seed: int) -> None:
    """Each node's best index, against sets of points; sizes are those of the sets."""
    groups = np.random.default_rng(seed).integers(-1, 3, len(hierarchy.node_of))
    shared = hierarchy.shared(hierarchy.node_of, groups, 3)
    counts = np.array([(groups == g).sum() for g in range(3)], float)
    found = best_jaccard(shared, hierarchy.size.astype(float), counts)
    for node in range(len(hierarchy.parent)):
        own = {p for p, low in enumerate(hierarchy.node_of.tolist()) if node in above(hierarchy, low)}
        assert hierarchy.size[node] == len(own)
        others = [set(np.flatnonzero(groups == g).tolist()) for g in range(3)]
        expected = max(len(own & other) / len(own | other) if own | other else 0.0 for other in others)
        assert found[node] == pytest.approx(expected)


@given(
    seed=st.integers(0, 10**6), method=st.sampled_from(["leaf", "eom"]), largest=st.sampled_from([0, 60, 100])
)
def test_labels_are_hdbscans_own(seed: int, method: str, largest: int) -> None:
    """Given the nodes that HDBSCAN chose itself, labels and probabilities of the training points are its."""
    points = blobs(4, 40, 0.9, seed)
    clusterer = hdbscan.HDBSCAN(
        min_cluster_size=8,
        min_samples=4,
        cluster_selection_method=method,
        max_cluster_size=largest,
        prediction_data=True,
    ).fit(points)
    nodes = selected_nodes(clusterer._condensed_tree, clusterer.labels_.astype(np.int32))
    if not len(nodes):
        return
    found = chosen_clusters(tree_arrays(clusterer, points), nodes)
    inside = clusterer.labels_ >= 0  # hdbscan itself forgets some of a node's descendants: see selected_nodes
    np.testing.assert_array_equal(found["labels"][inside], clusterer.labels_[inside])
    np.testing.assert_allclose(found["probabilities"][inside], clusterer.probabilities_[inside], rtol=1e-6)
    assert (found["labels"].dtype, found["probabilities"].dtype) == (np.int32, np.float32)


def test_what_is_there_is_found_again_and_noise_is_not() -> None:
    """Separate groups have a stability near 1; of points without any group no node has."""
    p = parameters()
    points = blobs(9, 40, 0.35)
    selection = select(fit_hdbscan(points, p), points, p)
    assert len(selection.nodes) == 9
    assert (selection.stability > 0.9).all()
    noise = np.random.default_rng(0).uniform(size=(400, 2)).astype(np.float32)
    hierarchy = Hierarchy.of(fit_hdbscan(noise, p)._condensed_tree)
    small = hierarchy.size < 0.3 * len(noise)
    assert found_again(hierarchy, point_samples(noise, p))[small].mean() < 0.6


def test_a_few_images_more_or_less_change_little() -> None:
    """The same groups, whichever fifth of the points is left out."""
    p, points = parameters(), blobs(9, 50, 0.8)
    counts = []
    for seed in range(5):
        rows = np.sort(np.random.default_rng(seed).permutation(len(points))[: len(points) * 4 // 5])
        counts.append(len(select(fit_hdbscan(points[rows], p), points[rows], p).nodes))
    assert max(counts) - min(counts) <= 1


def test_a_large_cluster_has_to_be_far_steadier_than_what_is_below() -> None:
    """Three groups of a third each are three clusters; half of everything is none for being half of it."""
    p = parameters()
    points = blobs(3, 80, 0.3)
    selection = select(fit_hdbscan(points, p), points, p)
    assert len(selection.nodes) == 3
    parent = np.array([-1, 0, 0, 1, 1])
    under = sp.csr_matrix(
        np.array([[1] * 5, [0, 1, 0, 1, 1], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0] * 4 + [1]])
    )
    size = np.array([100, 60, 20, 25, 25])
    hierarchy = Hierarchy(parent, np.empty(0, np.int64), size, size.astype(float), under)

    def chosen(of_large: float) -> list[int]:
        found = np.array([1.0, of_large, 0.8, 0.8, 0.7])
        return antichain(hierarchy, values(hierarchy, found, 0.2)).tolist()

    assert chosen(1.0) == [1, 2]
    assert chosen(0.85) == [2, 3, 4]
    assert values(hierarchy, np.array([1.0, 0.8, 0, 0, 0]), 1.0)[1] == pytest.approx(0)
    assert not np.isfinite(values(hierarchy, np.ones(5), 1.0)[0])


def said(labels: np.ndarray) -> Before:
    """What a previous model says, without groups."""
    nothing, labels = np.full(len(labels), -1, np.int32), labels.astype(np.int32)
    no = np.zeros(len(labels), bool)
    return Before(labels, nothing, np.empty((len(labels), 2), np.float32), no, no)


def test_what_the_previous_model_had_is_preferred() -> None:
    """Pairs of near groups are one cluster each, or two, as the previous model had them."""
    rng = np.random.default_rng(0)
    corners = np.array([[0, 0], [40, 0], [0, 40], [40, 40], [80, 0], [80, 40]], float)
    fine = np.repeat(np.arange(12), 40)
    middle = np.repeat(corners, 2, axis=0) + np.tile([[0, 0], [3.2, 0]], (6, 1))
    points = (middle[fine] + 0.7 * rng.normal(size=(480, 2))).astype(np.float32)
    p = parameters()
    clusterer = fit_hdbscan(points, p)
    for before, clusters in ((fine, 12), (fine // 2, 6)):
        assert len(select(clusterer, points, p, before=said(before)).nodes) == clusters
    alone = select(clusterer, points, p)
    nothing = select(clusterer, points, p, before=said(np.full(480, -1)))
    np.testing.assert_array_equal(nothing.nodes, alone.nodes)


def test_as_many_clusters_as_are_wanted() -> None:
    """Nine groups in three places: three, nine, or what is between; what is given up for it is in figures."""
    places = np.repeat([[0, 0], [60, 0], [0, 60]], 3, axis=0) + np.tile([[0, 0], [6, 0], [0, 6]], (3, 1))
    points = np.concatenate(
        [place + 0.5 * np.random.default_rng(i).normal(size=(40, 2)) for i, place in enumerate(places)]
    ).astype(np.float32)
    clusterer = fit_hdbscan(points, parameters())
    for least, most, count in ((3, 3, 3), (5, 6, 6), (8, 20, 9)):
        selection = select(clusterer, points, parameters(min_clusters=least, max_clusters=most))
        assert selection.bounded is not None
        assert len(selection.nodes) == selection.bounded.chosen.clusters == count
        assert selection.bounded.default.clusters == 9
        assert (selection.bounded.chosen.value < selection.bounded.default.value) == (count != 9)
    most = select(clusterer, points, parameters(min_clusters=500, max_clusters=500))
    assert most.bounded is not None
    assert 9 <= len(most.nodes) == most.bounded.chosen.clusters < 500
    assert select(clusterer, points, parameters()).bounded is None


@pytest.mark.parametrize(("least", "most"), [(3, 2), (0, 5), (-1, 5), (2, 10_001), (4, 0)])
def test_counts_that_make_no_sense_are_refused(least: int, most: int) -> None:
    with pytest.raises(FitError, match=rf"number of clusters.*got {least} to {most}"):
        parameters(min_clusters=least, max_clusters=most).check(400)


def test_counts_need_the_stable_choice() -> None:
    """HDBSCAN's own methods have no value that a count could be weighed against."""
    bounded = {"min_clusters": 3, "max_clusters": 5, "max_cluster_share": 1.0}
    with pytest.raises(FitError, match=r"a number of clusters.*'stable', not 'leaf'"):
        parameters(cluster_selection_method="leaf", **bounded).check(400)


def test_no_cluster_is_refused() -> None:
    """A tree without a node that is found again: the parameters to lower are named."""
    p = parameters(min_cluster_size=300, min_samples=5)
    points = blobs(4, 100, 0.3)
    with pytest.raises(FitError, match=r"no cluster was found among 400 images.*min_cluster_size \(now 300"):
        select(fit_hdbscan(points, p), points, p)


def test_other_methods_keep_hdbscans_choice() -> None:
    """`eom` and `leaf` choose as HDBSCAN does, and their clusters have a stability all the same."""
    points = blobs(9, 40, 0.8)
    for method in ("eom", "leaf"):
        p = parameters(cluster_selection_method=method, max_cluster_share=1.0)
        clusterer = fit_hdbscan(points, p)
        selection = select(clusterer, points, p)
        assert len(selection.nodes) == clusterer.labels_.max() + 1
        assert all(value is not None for value in selection.known())
        unknown = select(clusterer, points, parameters(cluster_selection_method=method, refits=0))
        assert unknown.known() == [None] * len(selection.nodes)
