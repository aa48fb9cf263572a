"""Which clusters refits agree on, and UMAP's graph by them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from imgclust.training import coassociation
from imgclust.training.coassociation import APART, TOGETHER, Refit, Refits
from imgclust.training.reweighted_umap import reweighted

N, LEAST = 12, 2


@st.composite
def made_up(draw: st.DrawFn, *, whole: bool = False) -> tuple[Refit, ...]:
    """Up to four refits of twelve images: any samples, or all of them; any clusters."""
    fits = []
    for _ in range(draw(st.integers(1, 4))):
        inside = np.array(draw(st.lists(st.booleans(), min_size=N, max_size=N))) | whole
        labels = np.array(draw(st.lists(st.integers(-1, 2), min_size=N, max_size=N)), np.int32)
        fits.append(Refit(np.flatnonzero(inside), labels[inside], np.empty(0)))
    return tuple(fits)


def together(fits: tuple[Refit, ...]) -> np.ndarray:
    """By definition: the share of the refits with both images in which they are in one cluster."""
    there = [dict(zip(fit.rows.tolist(), fit.labels.tolist(), strict=True)) for fit in fits]
    found = np.zeros((N, N))
    for i, j in np.ndindex(N, N):
        votes = [fit[i] == fit[j] >= 0 for fit in there if i in fit and j in fit]
        found[i, j] = np.mean(votes) if votes else 0
    return found


@settings(max_examples=50)
@given(made_up())
def test_clusters_are_what_refits_put_together(fits: tuple[Refit, ...]) -> None:
    """Of the least size at least, counted from 0; inside, images are together often enough on average; no
    refit's number of a cluster and no order of the refits decides."""
    found = Refits.of(N, fits, LEAST).labels
    assert found.dtype == np.int32
    sizes = np.bincount(found[found >= 0])
    assert (sizes >= LEAST).all()
    share = together(fits)
    for cluster in range(len(sizes)):
        inside = share[np.ix_(found == cluster, found == cluster)]
        assert inside[~np.eye(len(inside), dtype=bool)].mean() >= TOGETHER - 1e-9
    other = [Refit(fit.rows, np.where(fit.labels >= 0, 2 - fit.labels, -1), fit.tree) for fit in fits[::-1]]
    np.testing.assert_array_equal(Refits.of(N, other, LEAST).labels, found)


@settings(max_examples=50)
@given(made_up(whole=True))
def test_what_all_refits_put_together_is_in_one_cluster(fits: tuple[Refit, ...]) -> None:
    found, share = Refits.of(N, fits, LEAST).labels, together(fits)
    for i, j in np.argwhere(share == 1):
        assert i == j or found[i] == found[j] >= 0
    alone = (share < TOGETHER).sum(axis=0) == N
    assert (found[alone] == -1).all()


def test_clusters_are_found_among_refits_of_which_some_err() -> None:
    """Two groups that one refit of four joins and another has in "other": both, and the rest in none."""
    group = np.array([0] * 5 + [1] * 5 + [-1, -1], np.int32)
    joined, nothing = np.minimum(group, 0), np.full(N, -1, np.int32)
    fits = [Refit(np.arange(N), labels, np.empty(0)) for labels in (group, group, joined, nothing)]
    found = Refits.of(N, fits, LEAST).labels
    assert adjusted_rand_score(found, group) == 1
    assert np.array_equal(found < 0, group < 0)
    assert set(Refits.of(N, fits, 6).labels) == {-1}


@settings(max_examples=30)
@given(made_up(), st.integers(0, 1000))
def test_edges_between_what_is_apart_get_weaker(fits: tuple[Refit, ...], seed: int) -> None:
    """No edge is lost; those inside clusters and inside "other" keep their weight, the rest a tenth."""
    graph = sp.random(N, N, 0.4, "csr", np.float32, seed)
    graph = graph + graph.T
    refits = Refits.of(N, fits, LEAST)
    found, before = reweighted(graph, [refits.left_of_edges]).toarray(), graph.toarray()
    same = refits.labels[:, None] == refits.labels[None]
    np.testing.assert_allclose(found, before * np.where(same, 1, APART), rtol=1e-6)


@pytest.mark.parametrize("linked", [8, 11, 12])
def test_of_many_images_some_are_linked_and_the_rest_follow(
    monkeypatch: pytest.MonkeyPatch, linked: int
) -> None:
    """Clusters and "other" are the same, where all refits but one see them."""
    group = np.repeat(np.array([0, 1, -1], np.int32), [5, 5, 2])
    votes = [group, group, group, np.minimum(group, 0)]
    fits = [Refit(np.arange(N), labels, np.empty(0)) for labels in votes]
    monkeypatch.setattr(coassociation, "LINKED", linked)
    found = Refits.of(N, fits, LEAST).labels
    assert adjusted_rand_score(found, group) == 1
    assert np.array_equal(found < 0, group < 0)
