"""A UMAP that knows clusters: edges of its graph that lead out of one of them count for less.

Where neither end of an edge is known well, it counts in full: what is new finds its own place.

umap-learn's own supervision (`target_metric`) multiplies weights by powers of e, in no relation to how many
there are, and lifts each row's strongest edge to 1 afterwards.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import umap

from imgclust.training.before import Before

# What is left of the weight of an edge that leads out of a cluster, where none, one or both of its ends are
# known well; see docs/decisions/0028-numbers-keep-their-meaning.md
LEFT = np.array([1.0, 0.3, 0.1], np.float32)


class LabelledUMAP(umap.UMAP):  # type: ignore[misc]
    """`umap.UMAP`, with the clusters of a model before this one.

    Attributes:
        before: what that model says of the rows; to be set before `fit`.
    """

    before: Before
    graph_: sp.csr_matrix

    def _fit_embed_data(self, X: Any, *rest: Any, **others: Any) -> Any:  # noqa: N803
        """Umap-learn (0.5.12) calls this to lay the graph out, "can be replaced by subclasses"."""
        self.graph_ = weakened(self.graph_, self.before)
        return super()._fit_embed_data(X, *rest, **others)


def weakened(graph: sp.spmatrix, before: Before) -> sp.csr_matrix:
    """The graph (sparse, n × n) with weaker edges out of known clusters; none is lost."""
    edges = graph.tocoo()
    one, two = before.labels[edges.row], before.labels[edges.col]
    inside = (one == two) & (one >= 0)
    known = before.known.astype(np.int8)
    left = np.where(inside, LEFT[0], LEFT[known[edges.row] + known[edges.col]])
    return sp.coo_matrix((edges.data * left, (edges.row, edges.col)), edges.shape).tocsr()
