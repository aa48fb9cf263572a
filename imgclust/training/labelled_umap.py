"""A UMAP's graph that knows clusters: edges that lead out of one of them count for less.

Where neither end of an edge is known well, it counts in full: what is new finds its own place.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from imgclust.training.before import Before

# What is left of the weight of an edge that leads out of a cluster, where none, one or both of its ends are
# known well; see docs/decisions/0028-numbers-keep-their-meaning.md
LEFT = np.array([1.0, 0.3, 0.1], np.float32)


def weakened(graph: sp.spmatrix, before: Before) -> sp.csr_matrix:
    """The graph (sparse, n × n) with weaker edges out of known clusters; none is lost."""
    edges = graph.tocoo()
    one, two = before.labels[edges.row], before.labels[edges.col]
    inside = (one == two) & (one >= 0)
    known = before.known.astype(np.int8)
    left = np.where(inside, LEFT[0], LEFT[known[edges.row] + known[edges.col]])
    return sp.coo_matrix((edges.data * left, (edges.row, edges.col)), edges.shape).tocsr()
