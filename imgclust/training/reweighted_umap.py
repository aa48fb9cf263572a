"""A UMAP whose graph is changed before it is laid out.

umap-learn's own supervision (`target_metric`) multiplies weights by powers of e, in no relation to how many
there are, and lifts each row's strongest edge to 1 afterwards. New images are placed without the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import scipy.sparse as sp

from imgclust.placing.quick_umap import QuickUMAP
from imgclust.types import Floats, Ints

Share = Callable[[Ints, Ints], Floats]
"""What is left of the weights of edges, above 0 and at most 1, by the rows that are their ends."""


def reweighted(graph: sp.spmatrix, shares: Iterable[Share]) -> sp.csr_matrix:
    """A graph (sparse, n × n) with so much left of each edge; none is lost."""
    edges = graph.tocoo()
    for share in shares:
        edges.data = edges.data * share(edges.row, edges.col)
    return edges.tocsr()


class ReweightedUMAP(QuickUMAP):
    """UMAP with some edges heavier than others.

    Attributes:
        shares: of the graph's weights, one after the other; to be set before `fit`.
    """

    shares: tuple[Share, ...] = ()

    def _fit_embed_data(self, X: Any, *rest: Any, **others: Any) -> Any:  # noqa: N803
        """Umap-learn (0.5.12) calls this to lay the graph out, "can be replaced by subclasses"."""
        if self.shares:
            self.graph_ = reweighted(self.graph_, self.shares)
        return super()._fit_embed_data(X, *rest, **others)
