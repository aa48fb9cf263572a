"""Where UMAP's points start: the graph's first eigenvectors, as umap-learn takes them, in less time.

The same Lanczos method (ARPACK), asked for the largest eigenvalues of the normalized graph, which are what is
left of 1 after the smallest ones of its Laplacian, that umap-learn (0.5.12, `spectral.py`) asks for. Near 1 a
tolerance of 1e-4 is reached sooner than near 0, and few vectors are kept instead of √n.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from umap.spectral import spectral_layout

from imgclust.support.machine import available_cores

KEPT, TOLERANCE = 40, 1e-4  # Lanczos vectors; error of an eigenvalue, relative
BLOCKS = 16  # of rows, for threads: a row's sum is the same in any block

Floats64 = npt.NDArray[np.float64]


def spectral_places(edges: sp.coo_matrix, dim: int, rows: Any, state: Any, metric: tuple[Any, Any]) -> Any:
    """float (n, dim), not scaled.

    Args:
        edges: symmetric (n, n).
        rows, state, metric: for umap-learn, which places a graph of several parts.
    """
    if connected_components(edges, directed=False)[0] == 1:
        try:
            return _eigenvectors(edges.tocsr(), dim)
        except ArpackError:  # umap-learn has an answer to that, too
            pass
    return spectral_layout(rows, edges, dim, state, *metric)


def _eigenvectors(graph: sp.csr_matrix, dim: int) -> Floats64:
    """Of the normalized graph, all but the first, which only says how many edges a row has."""
    scale = sp.diags(1.0 / np.sqrt(np.asarray(graph.sum(axis=0), np.float64).ravel()))
    normalized, n = (scale @ graph @ scale).tocsr(), graph.shape[0]
    bounds = np.linspace(0, n, BLOCKS + 1).astype(int)
    blocks = [normalized[low:high] for low, high in itertools.pairwise(bounds)]
    with ThreadPoolExecutor(available_cores()) as pool:

        def product(vector: Floats64) -> Floats64:
            return np.concatenate(list(pool.map(lambda block: block @ vector, blocks)))

        operator = LinearOperator((n, n), product, dtype=np.float64)
        values, vectors = eigsh(operator, dim + 1, which="LA", ncv=KEPT, tol=TOLERANCE, v0=np.ones(n))
    found: Floats64 = vectors[:, np.argsort(-values)[1:]]
    return found
