"""UMAP's layout: an edge of the graph pulls its ends together, and rows drawn at random push its head away.

umap-learn's rule and schedule, sequential, so the same bits for any number of threads. What differs: forces
are looked up in tables instead of computed with two powers each, and random numbers are counted, not kept for
each row. Three times as fast; see docs/decisions/0113-the-layout-looks-forces-up.md.

Source: umap-learn 0.5.12, `layouts.py` (`optimize_layout_euclidean`), `umap_.py` (`make_epochs_per_sample`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import scipy.sparse as sp

from imgclust.predictor import exact
from imgclust.predictor.exact import BASE, SHIFT
from imgclust.predictor.repulsion import CLIP
from imgclust.predictor.umap_transform import Curves
from imgclust.types import Floats

REPORTED = 10  # epochs between two reports of progress
# splitmix64's numbers
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@dataclasses.dataclass(frozen=True, slots=True)
class Descent:
    """How points are moved.

    Attributes:
        curves: the two forces.
        epochs: passes over the edges; the strongest edge pulls in each of them.
        rate: share of a force that a point is moved by, at first; it falls to 0.
        negatives: random rows for each pull.
        seed: of the random rows.
    """

    curves: Curves
    epochs: int
    rate: float
    negatives: float
    seed: int


def pruned(graph: sp.spmatrix, epochs: int) -> sp.coo_matrix:
    """The edges that pull at least once in so many epochs, by rows."""
    edges = graph.tocoo(copy=True)
    edges.sum_duplicates()
    edges.data[edges.data < edges.data.max() / epochs] = 0.0
    edges.eliminate_zeros()
    return edges


def lay_out(
    places: Floats, edges: sp.coo_matrix, how: Descent, progress: Callable[[float], None] | None = None
) -> Floats:
    """Points where the forces of a graph have moved them, float32 (n, d).

    Args:
        places: float32 (n, d), where they start.
        edges: symmetric (n, n); as `pruned` gives it.
        progress: called with the share that is done, 0..1.
    """
    points = np.ascontiguousarray(places, np.float32).copy()
    rows, columns = edges.row.astype(np.int32), edges.col.astype(np.int32)
    frequencies = (edges.data / edges.data.max()).astype(np.float32)
    drawn = np.ones(edges.nnz, np.int32)  # of an edge so far: the first pull has one less
    due = np.empty(edges.nnz + 1, np.int32)
    tables = exact.table(how.curves.attraction), exact.table(how.curves.repulsion)
    arrays = points, rows, columns, frequencies, drawn, due, *tables
    epoch = _epoch(points.shape[1])
    counter, negatives = np.uint64(how.seed), np.float32(how.negatives)
    for number in range(1, how.epochs):
        rate = np.float32(how.rate * (1.0 - (number - 1) / how.epochs))
        counter = np.uint64(epoch(*arrays, number, rate, negatives, counter))
        if progress and number % REPORTED == 0:
            progress(number / how.epochs)
    return points


@numba.njit(inline="always")
def _bits(value: Any) -> Any:
    single = np.float32(value)
    return np.int64(single.view(np.int32))


@functools.cache
def _epoch(dim: int) -> Any:
    """One pass over the edges, compiled for points of so many numbers. Changes `points`, `drawn` and `due`.

    Not with `fastmath`: each sum keeps its order on every processor.
    """
    bound = np.float32(CLIP)

    @numba.njit(nogil=True, error_model="numpy")
    def run(
        points: Any, rows: Any, columns: Any, frequencies: Any, drawn: Any, due: Any, attraction: Any,
        repulsion: Any, number: Any, rate: Any, negatives: Any, counter: Any,
    ) -> Any:  # fmt: skip
        n, last = np.uint64(len(points)), np.int64(len(attraction) - 1)
        now, before = np.float32(number), np.float32(number - 1)
        count: Any = 0
        for edge in range(len(rows)):  # without a branch: a processor would guess half of them wrong
            due[count] = edge
            count += np.int64(now * frequencies[edge]) > np.int64(before * frequencies[edge])
        here, difference = np.empty(dim, np.float32), np.empty(dim, np.float32)
        for edge in due[:count]:
            row, other = rows[edge], columns[edge]
            square = np.float32(0)
            for a in range(dim):
                here[a] = points[row, a]
                difference[a] = here[a] - points[other, a]
                square += difference[a] * difference[a]
            strength = attraction[min(max((_bits(square) >> SHIFT) - BASE, 0), last)]
            for a in range(dim):
                step = rate * min(max(strength * difference[a], -bound), bound)
                here[a] -= step
                points[other, a] += step
            after = np.int64(negatives * now * frequencies[edge])
            for _ in range(after - drawn[edge]):
                counter += _GOLDEN
                mixed = (counter ^ (counter >> np.uint64(30))) * _FIRST
                mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
                mixed ^= mixed >> np.uint64(31)
                other = np.int64(((mixed >> np.uint64(32)) * n) >> np.uint64(32))
                if other == row:
                    continue
                square = np.float32(0)
                for a in range(dim):
                    difference[a] = here[a] - points[other, a]
                    square += difference[a] * difference[a]
                strength = repulsion[min(max((_bits(square) >> SHIFT) - BASE, 0), last)]
                for a in range(dim):
                    here[a] += rate * min(max(strength * difference[a], -bound), bound)
            drawn[edge] = after
            for a in range(dim):
                points[row, a] = here[a]
        return counter

    with contextlib.suppress(RuntimeError):  # there is no folder that it may write to
        run.enable_caching()
    return run
