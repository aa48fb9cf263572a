"""The layout: umap-learn's schedule and rule, the same bits as written out for one edge at a time."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from umap.umap_ import make_epochs_per_sample

from imgclust.placing.layout import Descent, lay_out, pruned
from imgclust.predictor import exact
from imgclust.predictor.umap_transform import Curves

CURVES = Curves(1.8222, 0.8212, 1.0)


def graph(n: int, seed: int) -> sp.csr_matrix:
    one = sp.random(n, n, 0.2, "csr", np.float32, seed)
    one.setdiag(0)
    both = one + one.T
    both.eliminate_zeros()
    return both


def starts(n: int, dim: int) -> np.ndarray:
    return np.random.default_rng(n).uniform(0, 10, (n, dim)).astype(np.float32)


def drawn(counter: int, n: int) -> int:
    """splitmix64's number to a counter, as a row."""
    mixed = counter
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> shift)) * factor % 2**64
    return ((mixed ^ (mixed >> 31)) >> 32) * n >> 32


def by_hand(points: np.ndarray, edges: sp.coo_matrix, how: Descent) -> np.ndarray:
    """umap-learn's loop over epochs and edges."""
    attraction, repulsion = exact.table(how.curves.attraction), exact.table(how.curves.repulsion)
    points, counter, four = points.copy(), how.seed, np.float32(4)
    apart = make_epochs_per_sample(edges.data, how.epochs)
    apart_negative = apart / how.negatives
    due, due_negative = apart.copy(), apart_negative.copy()

    def force(here: np.ndarray, there: np.ndarray, table: np.ndarray) -> np.ndarray:
        square = np.float32(0)
        for difference in here - there:
            square += difference * difference
        strength = exact.lookup(table, np.array([square], np.float32))[0]
        return np.clip(strength * (here - there), -four, four)

    for epoch in range(how.epochs):
        rate = np.float32(how.rate * (1 - (epoch - 1) / how.epochs))
        for edge in np.flatnonzero(due <= epoch + 1e-6):
            row, other = edges.row[edge], edges.col[edge]
            here = points[row].copy()
            step = rate * force(here, points[other], attraction)
            here -= step
            points[other] += step
            due[edge] += apart[edge]
            times = int((epoch - due_negative[edge]) / apart_negative[edge] + 1e-6)
            due_negative[edge] += times * apart_negative[edge]
            for _ in range(times):
                counter = (counter + 0x9E3779B97F4A7C15) % 2**64
                other = drawn(counter, len(points))
                if other != row:
                    here += rate * force(here, points[other], repulsion)
            points[row] = here
    return points


@pytest.mark.parametrize(("dim", "negatives"), [(5, 5.0), (2, 12.0)])
def test_the_rule_edge_by_edge(dim: int, negatives: float) -> None:
    """The same bits, twice."""
    how = Descent(CURVES, epochs=30, rate=1.0, negatives=negatives, seed=7)
    edges, places = pruned(graph(24, 1), how.epochs), starts(24, dim)
    expected = by_hand(places, edges, how)
    assert not np.array_equal(expected, places)
    for _ in range(2):
        np.testing.assert_array_equal(lay_out(places, edges, how), expected)


def test_edges_that_never_pull_are_left_out() -> None:
    """The given graph stays as it is."""
    whole = graph(40, 2)
    before = whole.copy()
    edges = pruned(whole, 4)
    assert edges.data.min() >= whole.data.max() / 4
    assert edges.nnz == (whole.data >= whole.data.max() / 4).sum() < whole.nnz
    assert (whole != before).nnz == 0


def test_another_seed_gives_other_places() -> None:
    edges, places = pruned(graph(40, 3), 10), starts(40, 3)
    one, two = (lay_out(places, edges, Descent(CURVES, 10, 1.0, 5.0, seed)) for seed in (1, 2))
    assert not np.array_equal(one, two)


def test_progress_comes_up_to_the_end() -> None:
    told: list[float] = []
    edges, places = pruned(graph(20, 4), 60), starts(20, 2)
    lay_out(places, edges, Descent(CURVES, 60, 1.0, 5.0, 1), told.append)
    assert told == sorted(told)
    assert told[0] > 0
    assert 0.8 < told[-1] < 1
