"""Clusters that are known already stay apart, and what is not known goes where it belongs."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclust.training.before import Before
from imgclust.training.labelled_umap import LEFT, weakened
from imgclust.training.parameters import Parameters
from imgclust.training.umap_hdbscan import fit_umap
from tests.support.fitted import SMALL, grouped

N = 12


def said(labels: np.ndarray, known: np.ndarray) -> Before:
    labels = labels.astype(np.int32)
    return Before(labels, np.full_like(labels, -1), np.zeros((len(labels), 1), np.float32), known)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    labels=st.lists(st.integers(-1, 3), min_size=N, max_size=N),
    sure=st.lists(st.booleans(), min_size=N, max_size=N),
)
def test_edges_out_of_known_clusters_get_weaker(seed: int, labels: list[int], sure: list[bool]) -> None:
    """The more the more of their ends are known; none appears or is lost, and both ways are alike."""
    graph = sp.random(N, N, 0.4, "csr", np.float32, seed)
    graph = graph + graph.T
    known = np.array(sure) & (np.array(labels) >= 0)
    found = weakened(graph, said(np.array(labels), known)).toarray()
    for i, j in np.argwhere(graph.toarray() > 0):
        inside = labels[i] == labels[j] != -1
        assert found[i, j] == graph[i, j] * LEFT[0 if inside else int(known[i]) + int(known[j])]
    assert np.array_equal(found > 0, graph.toarray() > 0)
    assert np.array_equal(found, found.T)


def apart(points: np.ndarray, half: np.ndarray) -> float:
    """The distance of the means of both halves, in units of how far the images of one lie from its mean."""
    one, two = points[half == 0], points[half == 1]
    within = np.mean([np.linalg.norm(part - part.mean(0), axis=1).mean() for part in (one, two)])
    return float(np.linalg.norm(one.mean(0) - two.mean(0)) / within)


def test_two_halves_of_a_group_stay_apart() -> None:
    """Where nothing but what is known divides them; the other groups lie as without it."""
    rows, group = grouped(each=30)
    half = np.where(group == 0, rows[:, 0] > np.median(rows[group == 0, 0]), -1)
    p = Parameters.for_size(len(rows)).replaced(SMALL)
    points = {
        known: fit_umap(rows, p, before=said(half, known & (half >= 0))).embedding_ for known in (True, False)
    }
    some = group == 0
    assert apart(points[True][some], half[some]) > 1.5 * apart(points[False][some], half[some])
    np.testing.assert_array_equal(points[False], fit_umap(rows, p).embedding_)
