"""A UMAP's graph that knows clusters: edges that lead out of one of them count for less.

Edges between images that show something new count in full, and those from there to what is known for more
than other edges out of a cluster: what is new finds its own place. What the previous model had and left in
"other" stays near the clusters that it surrounds: alone, such images would become one large cluster.
"""

from __future__ import annotations

import numpy as np

from imgclust.training.before import Before
from imgclust.types import Floats, Ints

# What is left of the weight of an edge between images that are not in one cluster of the previous model; of
# one between an image that it had in "other" and one in a cluster; and of one between an image that shows
# something new and one that does not. See docs/decisions/0028-numbers-keep-their-meaning.md
APART, AROUND, OLD_AND_NEW = 0.1, 0.5, 0.3


def left_of_edges(before: Before, rows: Ints, others: Ints) -> Floats:
    """float32: what is left of the weight of edges between images; all of it inside known clusters."""
    one, two = before.labels[rows], before.labels[others]
    new, other_new = before.new[rows], before.new[others]
    around = before.seen & (before.labels < 0)
    left = np.where((one == two) & (one >= 0) | new & other_new, np.float32(1), np.float32(APART))
    left[around[rows] & (two >= 0) | around[others] & (one >= 0)] = AROUND
    left[new != other_new] = OLD_AND_NEW
    return left
