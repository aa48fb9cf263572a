"""Groups above the clusters: nodes of the same tree that hold two or more of them, none above another.

They are chosen as clusters are, by the same values: what samples show again, and not what is merely large; a
node of nearly all images, as there are many near the root, would say nothing, however steady it is. A cluster
that no chosen node is above is in no group. Nothing of the prediction changes: the group of an image is that
of its cluster.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from imgclust.training.antichains import antichain, counted_antichain
from imgclust.training.dedupe import Rows
from imgclust.training.hierarchy import Floats64, Hierarchy
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


def level_above(
    hierarchy: Hierarchy, clusters: Rows, value: Floats64, stability: Floats64, p: Parameters
) -> Level:
    """The best groups: as many as `p` wants, else as many as are worth something.

    Args:
        clusters: int64 (k,); nodes that were chosen, none above another.
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
