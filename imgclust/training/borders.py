"""A condensed tree with the borders of the previous model's clusters in it.

HDBSCAN's nodes begin where two groups part. Where known clusters are kept apart they part early, at a low
density, and each takes in all the images that lie thinly around it: with every fit "other" would shrink. So a
node that is a cluster of the previous model is given another below it, which begins at the density from where
on it is most like that cluster; what leaves the node before is "other". Such a tree is as any other to all
that reads it: a node more on the way from an image to the root.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.training.before import Before
from imgclust.training.hierarchy import Floats64, Hierarchy
from imgclust.training.parameters import Parameters
from imgclust.types import Ints

LEAST = 0.5  # Jaccard index with a cluster of the previous model, below which a node is none of them


def put_borders(clusterer: Any, before: Before | None, p: Parameters) -> None:
    """Put the borders of the previous model's clusters into a fitted HDBSCAN, if nodes are chosen by them."""
    if before is not None and p.cluster_selection_method == "stable":
        clusterer._condensed_tree = bordered(clusterer._condensed_tree, before.labels)


def bordered(tree: npt.NDArray[Any], before: Ints) -> npt.NDArray[Any]:
    """The tree with a node more below each node that is more like a previous cluster from some density on.

    Args:
        tree: of a fitted HDBSCAN (hdbscan 0.8.44, `_condensed_tree`).
        before: int32 (n,); the cluster of each point in the previous model, -1 is "other".
    """
    borders = _borders(tree, before)
    if not borders:
        return tree
    n, nodes = int(tree["parent"].min()), np.array(sorted(borders))
    cut = np.array([borders[node] for node in nodes.tolist()])

    def renumbered(ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return ids + np.where(ids < n, 0, np.searchsorted(nodes, ids))

    found = tree.copy()
    place = np.searchsorted(nodes, tree["parent"]).clip(max=len(nodes) - 1)
    inside = (nodes[place] == tree["parent"]) & (tree["lambda_val"] >= cut[place])
    found["parent"] = renumbered(tree["parent"]) + inside
    found["child"] = renumbered(tree["child"])
    more = np.zeros(len(nodes), tree.dtype)
    more["parent"] = renumbered(nodes)
    more["child"] = more["parent"] + 1
    more["lambda_val"] = cut
    more["child_size"] = [tree["child_size"][inside & (tree["parent"] == node)].sum() for node in nodes]
    return np.concatenate([found, more])


def _borders(tree: npt.NDArray[Any], before: Ints) -> dict[int, float]:
    """Node → the density at which it is most like a previous cluster, where that is not its own beginning."""
    hierarchy, n, count = Hierarchy.of(tree), int(tree["parent"].min()), int(before.max(initial=-1)) + 1
    sizes = np.bincount(before[before >= 0], minlength=count)
    pairs = hierarchy.shared(hierarchy.node_of, before, max(1, count)).tocoo()
    leaves = tree[tree["child_size"] == 1]
    leaves = leaves[np.argsort(leaves["parent"], kind="stable")]
    first = np.searchsorted(leaves["parent"], np.arange(n, n + len(hierarchy.parent) + 1))
    found = {}
    for node, label, shared in zip(pairs.row.tolist(), pairs.col.tolist(), pairs.data.tolist(), strict=True):
        if node and shared >= LEAST * sizes[label]:
            own = leaves[first[node] : first[node + 1]]
            there = before[own["child"]] == label
            size = int(hierarchy.size[node])
            cut = _best_cut(own["lambda_val"], there, size, int(shared), int(sizes[label]))
            if cut is not None:
                found[node + n] = cut
    return found


def _best_cut(
    value: Floats64, there: npt.NDArray[np.bool_], size: int, shared: int, other: int
) -> float | None:
    """The density from which on a node is most like a cluster; None: from its beginning, or it is not.

    Args:
        value: densities at which points leave the node one by one.
        there: which of these points are in the cluster.
        size, shared, other: points of the node, of both, and of the cluster.
    """
    order = np.argsort(value, kind="stable")
    value, gone = value[order], np.arange(len(value))
    shared_from = shared - np.cumsum(there[order]) + there[order]
    index = shared_from / (size - gone + other - shared_from)
    index[1:][value[1:] == value[:-1]] = 0  # points that leave together
    index[~np.isfinite(value)] = 0  # copies of one picture, at infinite density
    best = int(index.argmax()) if len(index) else 0
    return float(value[best]) if best and index[best] >= LEAST else None
