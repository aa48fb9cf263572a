"""The neighbours that UMAP is given: the true ones, and the same for any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

from imgclust.training import neighbours
from imgclust.training.neighbours import nearest_rows
from tests.support.fitted import grouped

COUNT = 12
ROWS = grouped(each=100)[0]


def all_distances(metric: str) -> np.ndarray:
    rows = ROWS.astype(np.float64)
    products, squares = rows @ rows.T, (rows**2).sum(1)
    if metric == "cosine":
        return 1 - products / np.sqrt(squares[:, None] * squares)
    return np.sqrt(np.maximum(squares[:, None] + squares - 2 * products, 0))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_they_are_the_nearest_of_all(metric: str) -> None:
    """Nearest first, each row's first neighbour is itself, distances are true to the last bit of float32."""
    found, distances = nearest_rows(ROWS, COUNT, metric)
    everywhere = all_distances(metric)
    nearest = np.argsort(everywhere, axis=1, kind="stable")[:, :COUNT]
    shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), nearest.tolist(), strict=True)]
    assert np.mean(shared) >= 0.999 * COUNT
    assert (found[:, 0] == np.arange(len(ROWS))).all()
    assert (distances[:, 0] == 0).all()
    np.testing.assert_allclose(distances, np.take_along_axis(everywhere, found, 1), atol=1e-7)
    assert (np.diff(distances, axis=1) >= 0).all()


def test_neither_threads_nor_blocks_nor_a_compiler_have_an_influence(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit: a fit must not depend on the machine's cores."""
    expected = nearest_rows(ROWS, COUNT, "cosine")
    monkeypatch.setattr(neighbours, "BLOCK", 37)
    for cores in (1, 3):
        monkeypatch.setattr(neighbours, "available_cores", lambda cores=cores: cores)
        for found, wanted in zip(nearest_rows(ROWS, COUNT, "cosine"), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    monkeypatch.setattr(neighbours.Search, "of", lambda _: None)
    for found, wanted in zip(nearest_rows(ROWS, COUNT, "cosine"), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_equal_rows_are_told_apart_by_their_number() -> None:
    rows = np.repeat(ROWS[:20], 3, axis=0)
    found, distances = nearest_rows(rows, 4, "cosine")
    np.testing.assert_array_equal(found[:, :3], np.repeat(np.arange(60).reshape(20, 3), 3, axis=0))
    assert (distances[:, :3] == 0).all()


def test_progress_ends_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 150)
    shares: list[float] = []
    nearest_rows(ROWS, COUNT, "cosine", shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]
