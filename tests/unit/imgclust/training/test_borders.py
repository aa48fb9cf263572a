"""Clusters of the previous model end where they ended, and not where the next one begins."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclust.model.freeze import chosen_clusters, tree_arrays
from imgclust.predictor.condensed_tree import ClusterTree
from imgclust.predictor.kdtree import build_order
from imgclust.training.before import Before
from imgclust.training.borders import bordered, put_borders
from imgclust.training.hierarchy import Hierarchy, best_jaccard
from imgclust.training.parameters import Parameters
from imgclust.training.selection import select
from imgclust.training.umap_hdbscan import fit_hdbscan

P = Parameters(n_neighbors=15, min_cluster_size=25, min_samples=5)


def said(labels: np.ndarray) -> Before:
    nothing, labels = np.full(len(labels), -1, np.int32), labels.astype(np.int32)
    no = np.zeros(len(labels), bool)
    return Before(labels, nothing, np.empty((len(labels), 2), np.float32), no, no)


def scattered(seed: int, groups: int = 5, each: int = 40, between: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Dense groups in the plane with images thinly between them, and the group of each; -1 in none."""
    rng = np.random.default_rng(seed)
    middle = 10 * np.stack(np.meshgrid(np.arange(3), np.arange(2)), -1).reshape(-1, 2)[:groups]
    group = np.concatenate([np.repeat(np.arange(groups), each), np.full(between, -1)])
    points = middle[group] + rng.normal(size=(len(group), 2))
    points[group < 0] = rng.uniform(-5, 25, (between, 2))
    return points.astype(np.float32), group


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.3, 1))
def test_only_nodes_are_added(seed: int, share: float) -> None:
    """Every image has the ancestors that it had, and their densities; each known cluster is met no worse."""
    points, group = scattered(seed)
    before = np.where(np.random.default_rng(seed).random(len(group)) < share, group, -1).astype(np.int32)
    tree = fit_hdbscan(points, P)._condensed_tree
    found = bordered(tree, before)
    own, other = Hierarchy.of(tree), Hierarchy.of(found)
    assert (other.parent[1:] < np.arange(1, len(other.parent))).all()
    sizes = np.bincount(before[before >= 0]).astype(float)

    def index(hierarchy: Hierarchy) -> np.ndarray:
        shared = hierarchy.shared(hierarchy.node_of, before, len(sizes))
        return best_jaccard(shared.T.tocsr(), sizes, hierarchy.size.astype(float))

    assert (index(other) >= index(own)).all()
    leaves, same = tree[tree["child_size"] == 1], found[found["child_size"] == 1]
    np.testing.assert_array_equal(
        leaves["lambda_val"], same["lambda_val"][np.argsort(same["child"])][leaves["child"]]
    )
    added = len(other.parent) - len(own.parent)
    assert sorted(set(other.size.tolist()) | set(own.size.tolist())) == sorted(set(other.size.tolist()))
    assert len(found) == len(tree) + added


def test_what_lies_around_a_cluster_stays_outside() -> None:
    """Labels and predictions of the chosen node are those of the border, of images on either side of it."""
    points, group = scattered(3)
    p = dataclasses.replace(P, min_cluster_size=10)
    clusterer = fit_hdbscan(points, p)
    put_borders(clusterer, said(group), p)
    nodes = select(clusterer, points, p, before=said(group)).nodes
    arrays = {"points": points, **tree_arrays(clusterer)}
    arrays |= chosen_clusters(arrays, nodes) | {
        "core_distances": np.asarray(clusterer.prediction_data_.core_distances, np.float64),
        "kd_order": build_order(points),
    }
    predicted = ClusterTree(arrays, {"min_samples": 5, "min_cluster_size": 10}).predict(points).labels
    assert (arrays["labels"] >= 0)[group >= 0].mean() > 0.95
    assert (arrays["labels"] < 0)[group < 0].mean() > 0.7
    assert (predicted == arrays["labels"]).mean() > 0.95


def test_other_stays_other_over_five_fits() -> None:
    """Within a point, though known clusters are drawn together at each fit; without borders it is eaten."""
    points, group = scattered(4)

    def others(with_borders: bool) -> list[float]:
        before, found = group, [float((group < 0).mean())]
        for _ in range(5):
            drawn, inside = points.copy(), before >= 0
            middle = np.stack([points[before == cluster].mean(axis=0) for cluster in range(before.max() + 1)])
            drawn[inside] += 0.3 * (middle[before[inside]] - points[inside])
            clusterer = fit_hdbscan(drawn, P)
            if with_borders:
                put_borders(clusterer, said(before), P)
            nodes = select(clusterer, drawn, P, before=said(before)).nodes
            before = chosen_clusters({"points": drawn, **tree_arrays(clusterer)}, nodes)["labels"]
            found.append(float((before < 0).mean()))
        return found

    kept, eaten = others(True)[1:], others(False)
    assert max(kept) - min(kept) < 0.01, kept
    assert eaten[-1] < kept[-1] - 0.05, eaten
