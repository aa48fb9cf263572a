"""Groups above the clusters: two or more that lie together in the trees of the samples, too.

The upper part of one tree is a matter of chance. So clusters are joined by twos, those first that lie nearest
to each other in the samples' trees on average, and of what they are joined to the groups are chosen as
clusters are, by the same values: what samples show again, and not what is merely large; nearly all images
would say nothing, however steady that is. A cluster that no chosen node is above is in no group. Nothing of
the prediction changes: the group of an image is that of its cluster.
See docs/decisions/0029-how-many-clusters.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from imgclust.training.antichains import antichain, counted_antichain
from imgclust.training.dedupe import Rows
from imgclust.training.hierarchy import Floats64, Hierarchy, Sample
from imgclust.training.parameters import Parameters
from imgclust.types import OTHER, Ints

LARGEST = 0.6  # of all images, in a group: two groups of about a half may be


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """Groups of a fit's clusters, counted 0..g-1.

    Attributes:
        of_cluster: int32 (k,); the group of each cluster, -1: it is in none.
        stability: float64 (g,), 0..1.
    """

    of_cluster: Ints
    stability: Floats64

    def labels(self, clusters: Ints) -> Ints:
        """int32 (n,): the groups of images in these clusters; -1 for "other", too."""
        return np.append(self.of_cluster, np.int32(OTHER))[clusters]


def joined(
    hierarchy: Hierarchy, clusters: Rows, samples: Sequence[Sample], before: Ints | None = None
) -> tuple[Hierarchy, Rows]:
    """The clusters, joined by twos by how they lie in the samples, by average linkage; and their nodes there.

    Args:
        clusters: int64 (k,), k ≥ 1; nodes that were chosen, none above another.
        before: int (n,); the group of each image in the previous model, -1: in none. What was in one group
            is joined first.
    """
    k = len(clusters)
    last = 2 * k - 2  # scipy counts clusters from 0, and what they are joined to on to here; we from the root
    parent, height = np.full(last + 1, -1), np.zeros(last + 1)
    label = np.full(len(hierarchy.parent), OTHER)
    for number, node in enumerate(clusters):
        label[hierarchy.under[node].indices] = number
    labels = label[hierarchy.node_of]
    if k > 1:
        apart = _apart(labels, k, samples)
        if before is not None:
            apart *= 1 - _in_one_group(labels, k, before)
        joins = linkage(squareform(apart, checks=False), "average")
        made = np.arange(k - 2, -1, -1)
        parent[last - joins[:, :2].astype(int)], height[made] = made[:, None], joins[:, 2]
    nodes = last - np.arange(k)
    return Hierarchy.joined(parent, np.where(labels >= 0, nodes[labels], 0), height), nodes


def _apart(labels: Ints | Rows, count: int, samples: Sequence[Sample]) -> Floats64:
    """float64 (count, count), 0..1: how large, on average, the smallest node is that holds images of both.

    As a share of all images, the mean over pairs of images and over samples. A node's share is 1 less all by
    which nodes on the way to it are smaller than those that they lie in.
    """
    near = np.zeros((count, count))
    for sample in samples:
        tree = sample.hierarchy
        shared = tree.shared(tree.node_of, labels[sample.rows], count).toarray()
        part = shared / np.maximum(shared[0], 1)
        share = tree.size / tree.size[0]
        smaller = np.append(0.0, share[tree.parent[1:]] - share[1:])
        near += part.T @ (smaller[:, None] * part)
    apart = 1 - near / len(samples)
    np.fill_diagonal(apart, 0)
    return apart


def _in_one_group(labels: Ints | Rows, count: int, before: Ints) -> Floats64:
    """float64 (count, count), 0..1: the share of pairs of images of both that were in one group."""
    shared = np.zeros((count, int(before.max(initial=OTHER)) + 1))
    some = (labels >= 0) & (before >= 0)
    np.add.at(shared, (labels[some], before[some]), 1)
    part = shared / np.maximum(np.bincount(labels[labels >= 0], minlength=count), 1)[:, None]
    return np.asarray(part @ part.T)


def level_above(
    hierarchy: Hierarchy, clusters: Rows, value: Floats64, stability: Floats64, p: Parameters
) -> Level:
    """The best groups: as many as `p` wants, else as many as are worth something.

    Args:
        clusters: int64 (k,); their nodes, none above another.
        value, stability: float64, of all nodes.
    """
    k = len(clusters)
    below = np.asarray(hierarchy.under[:, clusters].sum(axis=1)).ravel()
    small = hierarchy.size <= LARGEST * hierarchy.size[0]
    allowed = np.where((below >= 2) & small, value, -np.inf)
    if p.max_groups:
        nodes = counted_antichain(hierarchy, allowed, p.min_groups, p.max_groups)
    else:
        nodes = antichain(hierarchy, allowed)
    holds = np.asarray(hierarchy.under[nodes][:, clusters].todense()).reshape(len(nodes), k)
    found = np.where(holds.any(axis=0), holds.argmax(axis=0), OTHER) if len(nodes) else np.full(k, OTHER)
    return Level(found.astype(np.int32), stability[nodes])
