"""A UMAP whose graph is changed before it is laid out.

umap-learn's own supervision (`target_metric`) multiplies weights by powers of e, in no relation to how many
there are, and lifts each row's strongest edge to 1 afterwards. New images are placed without the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import scipy.sparse as sp

from imgclust.placing.quick_umap import QuickUMAP


class ReweightedUMAP(QuickUMAP):
    """UMAP with some edges heavier than others.

    Attributes:
        changes: of the graph (sparse, n × n), one after the other; to be set before `fit`.
    """

    changes: tuple[Callable[[sp.csr_matrix], sp.csr_matrix], ...] = ()

    def _fit_embed_data(self, X: Any, *rest: Any, **others: Any) -> Any:  # noqa: N803
        """Umap-learn (0.5.12) calls this to lay the graph out, "can be replaced by subclasses"."""
        for change in self.changes:
            self.graph_ = change(self.graph_)
        return super()._fit_embed_data(X, *rest, **others)
