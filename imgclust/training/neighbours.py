"""The nearest neighbours of all training rows among themselves, as UMAP takes them.

The predictor's search: exact distances of nearly all true neighbours, the same for any number of threads.
UMAP's own, pynndescent, uses one thread where a random state is fixed. See
docs/decisions/0112-neighbours-of-a-fit.md.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from imgclust.predictor.compiled import Search
from imgclust.predictor.ivf import build_ivf
from imgclust.predictor.neighbours import Neighbours
from imgclust.predictor.threads import Threads
from imgclust.support.machine import available_cores
from imgclust.types import Floats, Ints

BLOCK = 512  # rows of one call


def nearest_rows(
    rows: Floats, count: int, metric: str, progress: Callable[[float], None] | None = None
) -> tuple[Ints, Floats]:
    """Each row's nearest rows, itself among them, nearest first, equally near ones by number.

    Args:
        rows: float32 (n, d), unit-norm, of float16 values; n > count.
        count: of neighbours, itself among them.
        metric: "euclidean" or "cosine".
        progress: called with the share that is done, 0..1.

    Returns:
        int32 (n, count), and float32 (n, count): distances; euclidean, or 1 − cosine.
    """
    halves = rows.astype(np.float16)
    arrays = build_ivf(halves, count)
    neighbours = Neighbours({"embeddings": halves, **arrays}, count, metric)
    search = Search.of(neighbours) or neighbours.search
    # rows of one cell read the same cells: asked for together, these stay in the processor's cache
    order = arrays["code_rows"][arrays["code_rows"] >= 0]
    found, distances = np.empty((len(rows), count), np.int32), np.empty((len(rows), count), np.float32)

    def block(some: npt.NDArray[np.int32]) -> int:
        near = search(rows[some])
        found[some], distances[some] = near.rows, near.distances
        return len(some)

    done, blocks = 0, [order[start : start + BLOCK] for start in range(0, len(order), BLOCK)]
    for size in Threads(available_cores()).pool.map(block, blocks):
        done += size
        if progress:
            progress(done / len(rows))
    return found, distances
