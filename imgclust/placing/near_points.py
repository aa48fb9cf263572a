"""The nearest neighbours of points of few dimensions among themselves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from imgclust.support.machine import available_cores
from imgclust.types import Floats

LEAF = 40  # points
BLOCK = 8192  # points that are asked for at once


def near_points(points: Floats, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Each point's nearest ones, itself among them, nearest first; exact, so the same on any number of cores.

    Args:
        points: float (n, d), d small.
        count: at most n.

    Returns:
        int64 (n, count), and float64 (n, count): euclidean distances.
    """
    data = np.ascontiguousarray(points, np.float64)
    tree, cores = cKDTree(data, LEAF), available_cores()
    rows, distances = np.empty((len(data), count), np.int64), np.empty((len(data), count))
    # points that lie side by side read the same part of the tree
    for some in np.split(tree.indices, range(BLOCK, len(data), BLOCK)):
        distances[some], rows[some] = tree.query(data[some], np.arange(1, count + 1), workers=cores)
    return rows, distances
