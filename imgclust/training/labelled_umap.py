"""A UMAP's graph that knows clusters: edges that lead out of one of them count for less.

Edges between images that show something new count in full, and those from there to what is known for more
than other edges out of a cluster: what is new finds its own place. What the previous model had and left in
"other" stays near the clusters that it surrounds: alone, such images would become one large cluster.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from imgclust.training.before import Before

# What is left of the weight of an edge between images that are not in one cluster of the previous model; of
# one between an image that it had in "other" and one in a cluster; and of one between an image that shows
# something new and one that does not. See docs/decisions/0028-numbers-keep-their-meaning.md
APART, AROUND, OLD_AND_NEW = 0.1, 0.5, 0.3


def weakened(graph: sp.spmatrix, before: Before) -> sp.csr_matrix:
    """The graph (sparse, n × n) with weaker edges out of known clusters; none is lost."""
    edges = graph.tocoo()
    one, two = before.labels[edges.row], before.labels[edges.col]
    new, other_new = before.new[edges.row], before.new[edges.col]
    around = before.seen & (before.labels < 0)
    left = np.where((one == two) & (one >= 0) | new & other_new, np.float32(1), np.float32(APART))
    left[around[edges.row] & (two >= 0) | around[edges.col] & (one >= 0)] = AROUND
    left[new != other_new] = OLD_AND_NEW
    return sp.coo_matrix((edges.data * left, (edges.row, edges.col)), edges.shape).tocsr()
