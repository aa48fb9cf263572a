"""HDBSCAN's condensed tree as a hierarchy of nodes: which images lie under which, how two of them agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from imgclust.training.dedupe import Rows
from imgclust.types import Ints

Floats64 = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Hierarchy:
    """Nodes numbered from the root, 0; a node's number is above its parent's.

    Attributes:
        parent: int64 (k,); -1 of the root.
        node_of: int64 (n,); the lowest node that each point lies in.
        size: int64 (k,); points under each node.
        mass: float64 (k,); HDBSCAN's excess of mass: how long, in density, how many points stay together.
        under: sparse float64 (k, k); 1 where the column's node is the row's, or below it.
    """

    parent: Rows
    node_of: Rows
    size: Rows
    mass: Floats64
    under: sp.csr_matrix

    @classmethod
    def of(cls, tree: npt.NDArray[Any]) -> Hierarchy:
        """From the condensed tree of a fitted HDBSCAN (hdbscan 0.8.44, `_condensed_tree`)."""
        n = int(tree["parent"].min())
        k = int(max(tree["parent"].max(), tree["child"].max())) + 1 - n
        inner = tree["child"] >= n
        parent = np.full(k, -1, np.int64)
        parent[tree["child"][inner] - n] = tree["parent"][inner] - n
        node_of = np.zeros(n, np.int64)
        node_of[tree["child"][~inner]] = tree["parent"][~inner] - n
        under = _under(parent)
        size = np.asarray(under @ np.bincount(node_of, minlength=k)).astype(np.int64)
        value = np.minimum(tree["lambda_val"], _largest(tree["lambda_val"]))
        birth = np.zeros(k)
        birth[tree["child"][inner] - n] = value[inner]
        mass = np.zeros(k)
        np.add.at(mass, tree["parent"] - n, (value - birth[tree["parent"] - n]) * tree["child_size"])
        return cls(parent, node_of, size, mass, under)

    @classmethod
    def joined(cls, parent: Rows, node_of: Rows, height: Floats64) -> Hierarchy:
        """From nodes that were joined step by step, each at a height (k,), the root at the largest one.

        Their mass is how long, in height, how many points stay together.
        """
        under = _under(parent)
        size = np.asarray(under @ np.bincount(node_of, minlength=len(parent)))
        mass = size * np.append(0.0, height[parent[1:]] - height[1:])
        return cls(parent, node_of, size.astype(np.int64), mass, under)

    def shared(self, nodes: Rows, labels: Ints | Rows, count: int) -> sp.csr_matrix:
        """How many points each of the k nodes shares with each of `count` groups.

        Args:
            nodes: int64 (m,); the lowest node of some points.
            labels: int (m,); the group of each, -1 is none.
        """
        inside = labels >= 0
        pairs = sp.coo_matrix(
            (np.ones(int(inside.sum())), (nodes[inside], labels[inside])), (len(self.parent), count)
        )
        return self.under @ pairs.tocsr()

    def found_again(self, other: Hierarchy, rows: Rows) -> Floats64:
        """float64 (k,), 0..1: of each node, its best Jaccard index with any node of a tree of some points.

        Args:
            rows: int64 (m,); which of this tree's points the other one has, in its order.
        """
        nodes = self.node_of[rows]
        both = self.shared(nodes, other.node_of, len(other.parent)) @ other.under.T
        own = self.under @ np.bincount(nodes, minlength=len(self.parent))
        return best_jaccard(both.tocsr(), own, other.size.astype(np.float64))


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What is found among some of a hierarchy's points.

    Attributes:
        rows: int64 (m,); which points.
    """

    hierarchy: Hierarchy
    rows: Rows


def found_again(hierarchy: Hierarchy, samples: Sequence[Sample]) -> Floats64:
    """float64 (k,), 0..1: how well samples show each node again; NaN where there are none."""
    if not samples:
        return np.full(len(hierarchy.parent), np.nan)
    found = [hierarchy.found_again(sample.hierarchy, sample.rows) for sample in samples]
    return np.asarray(np.mean(found, axis=0), np.float64)


def _largest(values: Floats64) -> float:
    """The largest finite density: images that lie on one point part at an infinite one."""
    return float(values[np.isfinite(values)].max(initial=1.0))


def _under(parent: Rows) -> sp.csr_matrix:
    k = len(parent)
    below = above = np.arange(k)
    rows, columns = [above], [below]
    while len(above):
        above = parent[above]
        below, above = below[above >= 0], above[above >= 0]
        rows.append(above)
        columns.append(below)
    row, column = np.concatenate(rows), np.concatenate(columns)
    return sp.csr_matrix((np.ones(len(row)), (row, column)), (k, k))


def best_jaccard(shared: sp.csr_matrix, of_rows: Floats64, of_columns: Floats64) -> Floats64:
    """float64 (rows,): each row's largest Jaccard index with any column.

    Args:
        shared: (rows, columns); members that both have.
        of_rows, of_columns: how many members each has.
    """
    pairs = shared.tocoo()
    index = pairs.data / (of_rows[pairs.row] + of_columns[pairs.col] - pairs.data)
    best = np.zeros(shared.shape[0])
    np.maximum.at(best, pairs.row, index)
    return best
