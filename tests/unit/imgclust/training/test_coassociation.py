"""How often images are together, and UMAP's graph by it."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclust.training.coassociation import Refit, Refits
from imgclust.training.reweighted_umap import reweighted

N = 12


@st.composite
def made_up(draw: st.DrawFn) -> Refits:
    """Up to four refits of twelve images: any samples, any clusters."""
    fits = []
    for _ in range(draw(st.integers(1, 4))):
        inside = np.array(draw(st.lists(st.booleans(), min_size=N, max_size=N)))
        labels = np.array(draw(st.lists(st.integers(-1, 2), min_size=N, max_size=N)), np.int32)
        fits.append(Refit(np.flatnonzero(inside), labels[inside], np.empty(0)))
    return Refits(N, tuple(fits))


def pairs(refits: Refits) -> np.ndarray:
    one, two = np.divmod(np.arange(N * N), N)
    return refits.coassociation(one, two).reshape(N, N)


@settings(max_examples=50)
@given(made_up())
def test_a_share_of_the_refits_that_have_both(refits: Refits) -> None:
    """Symmetric, above 0 and below 1, in order of how often both are together, a half where nobody knows."""
    found = pairs(refits)
    assert np.array_equal(found, found.T)
    assert ((found > 0) & (found < 1)).all()
    there = [dict(zip(fit.rows.tolist(), fit.labels.tolist(), strict=True)) for fit in refits.fits]
    expected = np.empty((N, N))
    for i in range(N):
        for j in range(N):
            votes = [fit[i] == fit[j] for fit in there if i in fit and j in fit]
            expected[i, j] = (sum(votes) + 0.05) / (len(votes) + 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@settings(max_examples=50)
@given(made_up(), st.permutations(range(N)))
def test_the_order_of_images_and_of_clusters_decides_nothing(refits: Refits, order: list[int]) -> None:
    """Images in another order, clusters and refits counted otherwise: the same pairs."""
    place = np.argsort(order)
    moved = []
    for fit in reversed(refits.fits):
        rows = place[fit.rows]
        sort = np.argsort(rows)
        other = np.where(fit.labels >= 0, 2 - fit.labels, -1)[sort]
        moved.append(Refit(rows[sort], other.astype(np.int32), fit.tree))
    np.testing.assert_array_equal(pairs(Refits(N, tuple(moved))), pairs(refits)[np.ix_(order, order)])


@settings(max_examples=30)
@given(made_up(), st.integers(0, 1000))
def test_edges_between_what_is_apart_get_weaker(refits: Refits, seed: int) -> None:
    """No edge appears, is lost or gets heavier; both ways stay alike."""
    graph = sp.random(N, N, 0.4, "csr", np.float32, seed)
    graph = graph + graph.T
    found, before = reweighted(graph, [refits.coassociation]).toarray(), graph.toarray()
    assert np.array_equal(found > 0, before > 0)
    assert (found <= before).all()
    assert np.array_equal(found, found.T)
    np.testing.assert_allclose(found, before * pairs(refits), rtol=1e-6)
