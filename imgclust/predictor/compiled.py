"""The predictor's steps in C, where a compiler built them when the package was installed: the same bits.

Each call of `Kernels` takes many images and does not hold the interpreter's lock, so threads neither wait for
Python nor stop it. The sources are in `kernels/`; where they were not built, numpy does the same in more and
smaller calls.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.predictor.condensed_tree import ClusterTree, Membership
from imgclust.predictor.neighbours import Neighbourhood, Neighbours
from imgclust.predictor.soft_membership import SoftMembership
from imgclust.predictor.umap_transform import Transformed, UmapTransform
from imgclust.types import MAX_CANDIDATES, Floats, Ints

MOST_AXES = 32  # of the low-dimensional space, as in kernels.h
_INTEGER, _DOUBLE, _POINTER = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p

Table = Mapping[str, Any]


def _fields(integers: str, pointers: str, doubles: str = "") -> list[tuple[str, Any]]:
    kinds = ((integers, _INTEGER), (pointers, _POINTER), (doubles, _DOUBLE))
    return [(name, kind) for names, kind in kinds for name in names.split()]


class _Tree(ctypes.Structure):
    _fields_ = _fields("n dim depth width rank count", "low high leaf_points rows core")


class _Umap(ctypes.Structure):
    _fields_ = _fields(
        "n dim depth width neighbours epochs start_level attraction_size repulsion_size",
        "points attraction repulsion means variances shares entries leaves leaf_sizes",
        "opening negligible roughly negatives rate local target first",
    )


class _Ivf(ctypes.Structure):
    _fields_ = _fields(
        "n dim width cells margin neighbours shortlist cosine",
        "codes centres starts code_rows embeddings squares sums centre_sums",
        "scale",
    )


class _Soft(ctypes.Structure):
    _fields_ = _fields("clusters nodes exemplars_size dim", "exemplars first height densest selected")


@functools.cache
def library() -> ctypes.CDLL | None:
    """What was built, or None."""
    for path in sorted(Path(__file__).parent.glob("_kernels*.so")):
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # of another platform or C library
            continue
    return None


class Search:
    """`Neighbours.search` in C, where it was built."""

    def __init__(self, library: ctypes.CDLL, neighbours: Neighbours) -> None:
        self._library = library
        self._ivf, self._held = _filled(_Ivf, neighbours.tables())

    @classmethod
    def of(cls, neighbours: Neighbours) -> Search | None:
        """None: nothing was built."""
        built = library()
        return None if built is None else cls(built, neighbours)

    def __call__(self, queries: Floats) -> Neighbourhood:
        m, k = len(queries), int(self._ivf.neighbours)
        near = Neighbourhood(np.empty((m, k), np.int64), np.empty((m, k)), np.empty(m))
        rows = np.ascontiguousarray(queries)
        _call(self._library, "search", self._ivf, m, rows, near.rows, near.distances, near.similarities)
        return near


class Kernels:
    """A model's steps in C. `of` says whether there is one.

    Args:
        library: as `library` gives it.
        neighbours, umap, tree, soft: the same steps in numpy, whose tables are shared.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        neighbours: Neighbours,
        umap: UmapTransform,
        tree: ClusterTree,
        soft: SoftMembership,
    ) -> None:
        self._library = library
        self.search = Search(library, neighbours)  # see `Neighbours.search`
        filled = [_filled(_Umap, umap.tables()), _filled(_Tree, tree.tables()), _filled(_Soft, soft.tables())]
        self._umap, self._tree, self._soft = (structure for structure, _ in filled)
        self._held = [arrays for _, arrays in filled]
        self._joins = soft.joins

    @classmethod
    def of(
        cls, neighbours: Neighbours, umap: UmapTransform, tree: ClusterTree, soft: SoftMembership
    ) -> Kernels | None:
        """None: nothing was built, or the model is too unusual for it."""
        built = library()
        count = umap.tables()["neighbours"]
        if built is None or not count >= 2 or tree.index.dim > MOST_AXES or not len(tree.clusters.selected):
            return None
        return cls(built, neighbours, umap, tree, soft)

    def are_embeddings(self, rows: Floats, largest: float) -> bool:
        """Whether all rows, float32 (m, D), are what `FrozenPredictor.predict` takes."""
        m, dim = rows.shape
        rows = np.ascontiguousarray(rows)
        call = self._library.imgclust_are_embeddings
        return bool(call(_at(rows), _INTEGER(m), _INTEGER(dim), ctypes.c_float(largest)))

    def transform(self, near: Neighbourhood) -> Transformed:
        """See `UmapTransform.transform`."""
        m = len(near.rows)
        placed = Transformed(np.empty((m, int(self._umap.dim)), np.float32), np.empty(m, np.bool_))
        rows, distances = np.ascontiguousarray(near.rows), np.ascontiguousarray(near.distances)
        _call(self._library, "transform", self._umap, m, rows, distances, placed.points, placed.settled)
        return placed

    def nearest(self, points: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """See `ClusterTree.nearest`."""
        rows, reach = np.empty(len(points), np.int64), np.empty(len(points))
        _call(self._library, "nearest", self._tree, len(points), points, rows, reach)
        return rows, reach

    def best(self, points: Floats, membership: Membership) -> tuple[Ints, Floats]:
        """See `SoftMembership.best`."""
        nodes, lambdas = self._joins(membership)
        clusters = np.empty((len(points), MAX_CANDIDATES), np.int32)
        scores = np.empty(clusters.shape, np.float32)
        _call(self._library, "best", self._soft, len(points), points, nodes, lambdas, clusters, scores)
        return clusters, scores


def _filled(kind: type[ctypes.Structure], table: Table) -> tuple[ctypes.Structure, list[npt.NDArray[Any]]]:
    """A structure, and the arrays that it points to, which must live as long."""
    filled, held = kind(), []
    for name, ctype in kind._fields_:  # type: ignore[misc]
        value = table[name]
        if ctype is _POINTER:
            value = np.ascontiguousarray(value)
            held.append(value)
            value = value.ctypes.data
        setattr(filled, name, value)
    return filled, held


def _call(
    library: ctypes.CDLL, name: str, table: ctypes.Structure, m: int, *arrays: npt.NDArray[Any]
) -> None:
    done = getattr(library, f"imgclust_{name}")(
        ctypes.byref(table), _INTEGER(m), *(_at(array) for array in arrays)
    )
    if not done:
        raise MemoryError(f"no memory to predict {m} images")


def _at(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return _POINTER(array.ctypes.data)
