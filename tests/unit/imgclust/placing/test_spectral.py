"""Places to start from, whatever the number of threads."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from umap.spectral import spectral_layout

from imgclust.placing import spectral
from imgclust.placing.spectral import spectral_places


def band(n: int, seed: int = 0) -> sp.coo_matrix:
    """Rows in a long band, with edges to those nearby."""
    rng = np.random.default_rng(seed)
    first = np.repeat(np.arange(n), 8)
    second = (first + rng.integers(1, 30, len(first))).clip(max=n - 1)
    one = sp.coo_matrix((rng.uniform(0.2, 1, len(first)), (first, second)), (n, n)).tocsr()
    one.setdiag(0)
    return sp.coo_matrix(one + one.T)


def test_the_first_eigenvectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the normalized graph, but the very first; the same bits for one thread and three."""
    edges, found = band(600), []
    for cores in (1, 3):
        monkeypatch.setattr(spectral, "available_cores", lambda cores=cores: cores)
        found.append(spectral_places(edges, 3, None, None, ("euclidean", {})))
    np.testing.assert_array_equal(*found)
    scale = 1 / np.sqrt(np.asarray(edges.sum(0)).ravel())
    expected = np.linalg.eigh(edges.toarray() * scale * scale[:, None])[1][:, -2:-5:-1]
    np.testing.assert_allclose(np.abs(expected.T @ found[0]), np.eye(3), atol=1e-3)


def test_a_graph_of_several_parts_is_placed_by_umap() -> None:
    edges = sp.block_diag([band(60), band(60, 1)], "coo")
    rows = np.random.default_rng(2).normal(size=(120, 4)).astype(np.float32)
    one, other = (
        call(np.random.RandomState(0))
        for call in (
            lambda state: spectral_places(edges, 2, rows, state, ("euclidean", {})),
            lambda state: spectral_layout(rows, edges, 2, state, "euclidean", {}),
        )
    )
    np.testing.assert_array_equal(one, other)
