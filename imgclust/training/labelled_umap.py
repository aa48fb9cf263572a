"""A UMAP's graph that knows clusters: edges that lead out of one of them count for less.

Edges between images that show something new count in full, and those from there to what is known for more
than other edges out of a cluster: what is new finds its own place.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from imgclust.training.before import Before

# What is left of the weight of an edge between images that are not in one cluster of the previous model, and
# of one between an image that shows something new and one that does not; see
# docs/decisions/0028-numbers-keep-their-meaning.md
APART, OLD_AND_NEW = 0.1, 0.3


def weakened(graph: sp.spmatrix, before: Before) -> sp.csr_matrix:
    """The graph (sparse, n × n) with weaker edges out of known clusters; none is lost."""
    edges = graph.tocoo()
    one, two = before.labels[edges.row], before.labels[edges.col]
    new, other_new = before.new[edges.row], before.new[edges.col]
    left = np.where((one == two) & (one >= 0) | new & other_new, np.float32(1), np.float32(APART))
    left[new != other_new] = OLD_AND_NEW
    return sp.coo_matrix((edges.data * left, (edges.row, edges.col)), edges.shape).tocsr()
