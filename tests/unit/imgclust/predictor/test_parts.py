"""The parts below the predictor: exact arithmetic, neighbours, and the push."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imgclust.predictor import exact, int8, neighbours, repulsion, umap_transform
from imgclust.predictor.ivf import BLOCK, build_ivf, shortlist_length, shuffled
from imgclust.predictor.kdtree import KDTree, build_order
from imgclust.predictor.neighbours import Neighbours
from imgclust.predictor.repulsion import Repulsion
from tests.support.frozen_pair import UMAP, embeddings, frozen_pair


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-690, 0)))
def test_exp_is_exp(x: np.ndarray) -> None:
    """The relative error stays below 1e-9, and torch gives the same bits."""
    np.testing.assert_allclose(exact.exp(x), [math.exp(v) for v in x], rtol=1e-9)
    assert exact.exp(torch.from_numpy(x)).numpy().tobytes() == exact.exp(x).tobytes()


@given(st.integers(1, 90), st.integers(1, 9), st.integers(0, 1000))
def test_a_column_is_added_up_alike_beside_others(length: int, width: int, seed: int) -> None:
    """A column's sum does not depend on how many columns are added up, nor on the memory layout."""
    x = np.random.default_rng(seed).normal(size=(length, width)).astype(np.float32)
    sums = exact.ordered_sum(x.copy())
    for column in range(width):
        assert exact.ordered_sum(x[:, [column]].copy())[0] == sums[column]
        assert exact.ordered_sum(np.asfortranarray(x)[:, column : column + 1])[0] == sums[column]


@given(st.integers(1, 20), st.integers(1, 7), st.integers(1, 40), st.integers(0, 1000))
def test_groups_are_added_up_alike_by_both_modules(groups: int, d: int, m: int, seed: int) -> None:
    """numpy's one call, for any layout and a column alone, gives the bits of torch's group upon group."""
    x = np.random.default_rng(seed).normal(size=(d, repulsion._GROUP * groups, m)).astype(np.float32)
    by_axis = x.swapaxes(0, 1)
    expected = repulsion._grouped_sum(torch.from_numpy(by_axis.copy(order="C"))).numpy()
    assert repulsion._grouped_sum(by_axis).tobytes() == expected.tobytes()
    assert repulsion._grouped_sum(np.ascontiguousarray(by_axis)).tobytes() == expected.tobytes()
    alone = repulsion._grouped_sum(np.ascontiguousarray(by_axis[:, :, :1]))
    assert alone.tobytes() == np.ascontiguousarray(expected[:, :1]).tobytes()


@given(st.integers(1, 12_000), st.integers(0, 1000))
def test_clipping_is_the_same_for_few_and_for_many(length: int, seed: int) -> None:
    """Numbers beyond, on and within the bounds, zeros of both signs: one result whatever the call."""
    x = np.random.default_rng(seed).choice(np.array([-9, -4, -0.0, 0.0, 1.5, 4, 9], np.float32), length)
    expected = [min(max(v, -4.0), 4.0) for v in x.tolist()]
    found = exact.clip(x, -4.0, 4.0)
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    assert (np.signbit(found) == np.signbit(x)).all()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6), m=st.integers(1, 40), blocks=st.integers(1, 30_000),
    width=st.integers(1, 200), spread=st.sampled_from([1, 7, 300, 10**6]),
)  # fmt: skip
def test_the_best_blocks_of_each_query_are_kept(
    seed: int, m: int, blocks: int, width: int, spread: int
) -> None:
    """However scores are spread and blocks are divided, the first `width` of each query are promising."""
    rng = np.random.default_rng(seed)
    query = np.minimum(rng.integers(m, size=blocks), rng.integers(m, size=blocks))
    best = rng.integers(-spread, spread + 1, size=blocks)
    kept = np.zeros(blocks, dtype=bool)
    kept[neighbours._promising(query, best, m, width)] = True
    order = np.lexsort((np.arange(blocks), -best, query))
    starts = np.searchsorted(query[order], np.arange(m))
    rank = np.arange(blocks) - starts[query[order]]
    assert kept[order[rank < width]].all()
    if spread > 300 and blocks > 50 * m * width and blocks >= neighbours._FEW:
        assert kept.mean() < 0.5, "and few others"


@given(st.floats(2.0**-26, 2.0**13, width=32))
def test_tables_follow_their_function(square: float) -> None:
    """UMAP's two forces are tabulated to three digits."""
    curves = umap_transform.Curves(1.82, 0.82, 1.0)
    x = np.array([square], dtype=np.float32)
    for function in (curves.attraction, curves.repulsion):
        assert exact.lookup(exact.table(function), x)[0] == pytest.approx(function(float(x[0])), rel=3e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 97, 1000, 4097])
def test_shuffling_loses_nothing(n: int) -> None:
    """Every row has one place."""
    assert sorted(shuffled(n).tolist()) == list(range(n))


@settings(max_examples=30, deadline=None)
# a neighbour lies in a cell that is not read
@example(seed=8, n=385, dim=16, k=2, metric="euclidean", least=1)
@given(
    seed=st.integers(0, 10**6), n=st.integers(2, 700), dim=st.integers(16, 80), k=st.integers(1, 30),
    metric=st.sampled_from(["euclidean", "cosine"]), least=st.sampled_from([1, 512]),
)  # fmt: skip
def test_neighbours_are_the_nearest(seed: int, n: int, dim: int, k: int, metric: str, least: int) -> None:
    """Of the cells that are read, the nearest rows are found, and their distances are the true ones."""
    rows = embeddings(n + 9, dim, 4, seed)[0]
    train, asked = rows[:n].astype(np.float16), rows[n:]
    cells = build_ivf(train, k, least=least)
    search = Neighbours({"embeddings": train, **cells}, k, metric)
    found, reading = search.search(asked), search.reading(asked)
    read = np.zeros((len(asked), n), dtype=bool)
    for cell, (start, stop) in enumerate(itertools.pairwise(cells["cell_starts"])):
        inside = cells["code_rows"][start:stop]
        queries = reading.queries[reading.bounds[cell] : reading.bounds[cell + 1]]
        read[np.ix_(queries, inside[inside >= 0])] = True
    wide = train.astype(np.float64)
    if metric == "euclidean":
        distances = np.sqrt(((asked[:, None].astype(np.float64) - wide) ** 2).sum(2))
    else:
        lengths = np.linalg.norm(wide, axis=1) * np.linalg.norm(asked.astype(np.float64), axis=1)[:, None]
        distances = 1 - asked.astype(np.float64) @ wide.T / lengths
    k = min(k, n)
    nearest = np.sort(np.where(read, distances, np.inf), axis=1)[:, :k]
    np.testing.assert_allclose(found.distances, nearest, atol=2e-7)
    np.testing.assert_allclose(np.take_along_axis(distances, found.rows, 1), found.distances, atol=2e-7)
    assert (np.diff(found.distances, axis=1) >= 0).all()


def test_equal_training_rows_are_found_by_number() -> None:
    """Of rows that are equally near the first come first, however many there are."""
    train = np.repeat(embeddings(3, 16, 3, 0)[0], 50, axis=0).astype(np.float16)
    found = Neighbours({"embeddings": train, **build_ivf(train, 20)}, 20, "euclidean").search(
        train[[0, 60]].astype(np.float32)
    )
    assert found.rows.tolist() == [list(range(20)), list(range(50, 70))]
    assert (found.distances == 0).all()


def test_processors_without_exact_int8_products_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The float32 product of the codes is exact too: where int8 kernels saturate, nothing is lost."""
    arrays, _ = frozen_pair()
    asked = embeddings(40, 24, 5, seed=0)[0]
    expected = Neighbours(arrays, 10, "euclidean").search(asked)
    monkeypatch.setattr(int8, "product", lambda dim: int8.float_product)
    other = Neighbours(arrays, 10, "euclidean")
    assert other._product is int8.float_product
    got = other.search(asked)
    assert got.rows.tobytes() == expected.rows.tobytes()
    assert got.distances.tobytes() == expected.distances.tobytes()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(300, 900), clusters=st.integers(1, 12))
def test_cells_hold_every_row_once(seed: int, n: int, clusters: int) -> None:
    """Cells are whole blocks with enough rows for a shortlist; repeated rows are marked; no order is lost."""
    train = embeddings(n, 24, clusters, seed)[0].astype(np.float16)
    built = build_ivf(train, 10, least=20)
    rows, starts = built["code_rows"], built["cell_starts"]
    assert sorted(rows[rows >= 0].tolist()) == list(range(n))
    assert not (starts % BLOCK).any()
    for start, stop in itertools.pairwise(starts):
        inside = rows[start:stop]
        count = int((inside >= 0).sum())
        assert count >= shortlist_length(n, 10)
        assert (np.diff(inside[:count]) > 0).all()
        assert (inside[count:] == -1).all()
        repeated = built["codes"][start + count : stop]
        assert (repeated == built["codes"][start + count - 1]).all()
    again = build_ivf(train, 10, least=20)
    assert all(again[name].tobytes() == array.tobytes() for name, array in built.items())


def test_few_rows_are_read_and_few_neighbours_missed() -> None:
    """Where data has clusters a search reads a part of it, and finds what a search of everything finds."""
    rows = embeddings(6300, 32, 12, seed=4)[0]
    train, asked = rows[:6000].astype(np.float16), rows[6000:]
    arrays = {"embeddings": train, **build_ivf(train, 15, least=100)}
    part = Neighbours(arrays, 15, "euclidean")
    whole = Neighbours({**arrays, "cell_margin": np.array([2**30], dtype=np.int32)}, 15, "euclidean")
    sizes = np.diff(arrays["cell_starts"])
    read = (np.diff(part.reading(asked).bounds) * sizes).sum() / (len(asked) * len(arrays["codes"]))
    assert read < 0.6
    got, expected = part.search(asked), whole.search(asked)
    found = [np.isin(a, b).mean() for a, b in zip(got.rows, expected.rows, strict=True)]
    assert np.mean(found) > 0.995


@pytest.mark.parametrize("held", [1 << 8, 1 << 13])
def test_memory_and_pieces_change_no_neighbour(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    """However many scores are held at once, and however cells are divided, the shortlist is the same."""
    arrays, _ = frozen_pair(n=1500)
    asked = embeddings(60, 24, 5, seed=1)[0]
    search = Neighbours(arrays, 10, "euclidean")
    expected = search.search(asked)
    monkeypatch.setattr(neighbours, "_HELD", held)
    monkeypatch.setattr(neighbours, "_PIECE", 64)
    small = Neighbours(arrays, 10, "euclidean")
    reading = small.reading(asked)
    for parts in ([slice(None)], [slice(3), slice(3, 11), slice(11, None)]):
        got = small.ranked(asked, [small.candidates(reading, part) for part in parts])
        assert got.rows.tobytes() == expected.rows.tobytes()
        assert got.distances.tobytes() == expected.distances.tobytes()


@pytest.mark.parametrize("n", [40, 900, 5000])
def test_the_push_is_the_mean_over_all_points(n: int) -> None:
    """Boxes in place of their points change the push little, beside what a point's neighbours pull."""
    rng = np.random.default_rng(n)
    points = (rng.normal(size=(5, 3))[rng.integers(5, size=n)] * 4 + rng.normal(size=(n, 3))).astype(
        np.float32
    )
    curves = umap_transform.Curves(UMAP["a"], UMAP["b"], 1.0)
    repulsion = Repulsion(KDTree(points, build_order(points)), exact.table(curves.repulsion), push=5.0)
    asked = points[:20].astype(np.float64) + 0.1
    gaps = asked[:, None] - points
    forces = np.clip(curves.repulsion((gaps**2).sum(2))[:, :, None] * gaps, -4, 4).mean(1)
    found = repulsion.force(np.ascontiguousarray(asked.T, dtype=np.float32), repulsion.sources(asked)).T
    assert np.abs(found - forces).max() < 0.1 * np.abs(forces).max()


def test_restless_points_are_counted_and_placed() -> None:
    """Points that do not settle are counted, get a finite place, and the same one alone as among others."""
    from imgclust.predictor.predictor import FrozenPredictor

    arrays, params = frozen_pair(n=400, repulsion_strength=8.0, negative_sample_rate=40)
    rows = embeddings(200, 24, 5, seed=0)[0]
    predictor = FrozenPredictor(arrays, params)
    together = predictor.predict(rows)
    assert 0 < predictor.unsettled <= predictor.rows == 200
    assert np.isfinite(together.points).all()
    alone = np.concatenate([predictor.predict(rows[i : i + 1]).points for i in range(30)])
    assert alone.tobytes() == together.points[:30].tobytes()
