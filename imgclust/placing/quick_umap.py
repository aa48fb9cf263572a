"""UMAP whose places are laid out by `imgclust.placing.layout`; all else is umap-learn's."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.sparse as sp
import umap
from threadpoolctl import threadpool_limits
from umap.umap_ import noisy_scale_coords

from imgclust.placing.layout import Descent, lay_out, pruned
from imgclust.placing.spectral import spectral_places
from imgclust.predictor.umap_transform import Curves
from imgclust.types import Floats

OWN = 4096  # rows; below, umap-learn takes no time
SIDE = 10.0  # of the box that the places start in
NOISE = 1e-4  # so that no two rows start in one place
COMPILED = (
    ("umap.distances", "cosine"),
    ("umap.distances", "euclidean"),
    ("umap.utils", "fast_knn_indices"),
    ("umap.utils", "submatrix"),
    ("umap.umap_", "smooth_knn_dist"),
    ("umap.umap_", "compute_membership_strengths"),
    ("umap.layouts", "_nb_optimize_layout_euclidean_single_epoch"),
)


def keep_compiled() -> None:
    """umap compiles these in every process; numba can keep them for the next one.

    See docs/decisions/0111-compiled-umap-is-kept.md.
    """
    for module, name in COMPILED:
        function = getattr(importlib.import_module(module), name, None)  # other versions may have others
        with contextlib.suppress(RuntimeError):  # there is no folder that it may write to
            if function is not None:
                function.enable_caching()


@contextmanager
def calmly() -> Iterator[None]:
    """Without umap-learn's warnings of what is meant, and without BLAS's threads.

    Its many small products gain nothing from these, which wait for each other spinning.
    """
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value")  # a fixed random state uses one thread
        warnings.filterwarnings("ignore", message="precomputed_knn")  # it cannot search for new rows' ones
        yield


class QuickUMAP(umap.UMAP):  # type: ignore[misc]
    """`umap.UMAP`, several times as fast.

    Attributes:
        tell: called with the share of the layout that is done; to be set before `fit`.
    """

    tell: Callable[[float], None] | None = None
    graph_: sp.csr_matrix

    def _fit_embed_data(self, X: Any, epochs: int, init: Any, state: Any, **others: Any) -> Any:  # noqa: N803
        """Umap-learn (0.5.12) calls this to lay the graph out, "can be replaced by subclasses"."""
        if self.graph_.shape[0] < OWN:
            return super()._fit_embed_data(X, epochs, init, state, **others)
        edges = pruned(self.graph_, epochs)
        start = self._start(X, edges, init, state)
        curves = Curves(self._a, self._b, self.repulsion_strength)
        seed = int(state.randint(np.iinfo(np.int32).max))
        how = Descent(curves, epochs, self._initial_alpha, self.negative_sample_rate, seed)
        return lay_out(start, edges, how, self.tell), {}

    def _start(self, rows: Any, edges: sp.coo_matrix, init: Any, state: Any) -> Floats:
        """Where the points start, in a box: places that were given, or the graph's spectral ones."""
        if isinstance(init, str):
            metric = self._input_distance_func, self._metric_kwds
            init = spectral_places(edges, self.n_components, rows, state, metric)
        places = noisy_scale_coords(init, state, SIDE, NOISE)
        low, high = places.min(0), places.max(0)
        return np.asarray(SIDE * (places - low) / (high - low), np.float32)
