"""Clusters that are known already stay apart, and what is not known goes where it belongs."""

from __future__ import annotations

from functools import partial

import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclust.training.before import Before
from imgclust.training.labelled_umap import APART, AROUND, OLD_AND_NEW, left_of_edges
from imgclust.training.parameters import Parameters
from imgclust.training.reweighted_umap import reweighted
from imgclust.training.umap_hdbscan import fit_umap
from tests.support.fitted import SMALL, grouped

N = 12


def said(labels: np.ndarray, new: np.ndarray | None = None, seen: np.ndarray | None = None) -> Before:
    labels, no = labels.astype(np.int32), np.zeros(len(labels), bool)
    new, seen = no if new is None else new, no if seen is None else seen
    return Before(labels, np.full_like(labels, -1), np.zeros((len(labels), 1), np.float32), new, seen)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    labels=st.lists(st.integers(-1, 3), min_size=N, max_size=N),
    kinds=st.lists(st.sampled_from(["new", "seen", "like it"]), min_size=N, max_size=N),
)
def test_edges_out_of_known_clusters_get_weaker(seed: int, labels: list[int], kinds: list[str]) -> None:
    """And those between old and new; those to what was left in "other" less so. None appears or is lost, and
    both ways are alike."""
    graph = sp.random(N, N, 0.4, "csr", np.float32, seed)
    graph = graph + graph.T
    new, seen = (np.array(kinds) == kind for kind in ("new", "seen"))
    known = np.where(new, -1, labels)
    around = seen & (known < 0)
    found = reweighted(graph, [partial(left_of_edges, said(known, new, seen))]).toarray()
    for i, j in np.argwhere(graph.toarray() > 0):
        left = 1 if known[i] == known[j] != -1 or (new[i] and new[j]) else APART
        if (around[i] and known[j] >= 0) or (around[j] and known[i] >= 0):
            left = AROUND
        assert found[i, j] == graph[i, j] * np.float32(OLD_AND_NEW if new[i] != new[j] else left)
    assert np.array_equal(found > 0, graph.toarray() > 0)
    assert np.array_equal(found, found.T)


def apart(points: np.ndarray, half: np.ndarray) -> float:
    """The distance of the means of both halves, in units of how far the images of one lie from its mean."""
    one, two = points[half == 0], points[half == 1]
    within = np.mean([np.linalg.norm(part - part.mean(0), axis=1).mean() for part in (one, two)])
    return float(np.linalg.norm(one.mean(0) - two.mean(0)) / within)


def test_two_halves_of_a_group_stay_apart() -> None:
    """Where nothing but what is known divides them; where all is new, all lies as without a model before."""
    rows, group = grouped(each=30)
    half = np.where(group == 0, rows[:, 0] > np.median(rows[group == 0, 0]), -1)
    p = Parameters.for_size(len(rows)).replaced(SMALL)
    nothing = said(np.full(len(rows), -1), np.ones(len(rows), bool))
    known, new = (fit_umap(rows, p, before=before).embedding_ for before in (said(half), nothing))
    some = group == 0
    assert apart(known[some], half[some]) > 1.5 * apart(new[some], half[some])
    np.testing.assert_array_equal(new, fit_umap(rows, p).embedding_)
