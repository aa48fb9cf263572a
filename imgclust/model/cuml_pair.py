"""A UMAP and an HDBSCAN that cuML fitted on a GPU, as freezing reads those of umap-learn and hdbscan.

Only attributes are read, and nothing of cuML is imported: its arrays are copied to the host.
Source: cuml, `manifold/umap/umap.pyx`, `cluster/hdbscan/hdbscan.pyx`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from imgclust.errors import ModelError
from imgclust.model.folder import Array

_UMAP = (
    "metric", "n_components", "_n_neighbors", "_a", "_b", "min_dist", "spread", "local_connectivity",
    "set_op_mix_ratio", "negative_sample_rate", "repulsion_strength", "n_epochs", "learning_rate",
    "random_state",
)  # fmt: skip
_HDBSCAN = (
    "min_cluster_size", "min_samples", "alpha", "cluster_selection_method", "cluster_selection_epsilon",
    "max_cluster_size", "allow_single_cluster",
)  # fmt: skip


def is_cumls(model: Any) -> bool:
    """Whether cuML fitted it."""
    return type(model).__module__.partition(".")[0] == "cuml"


def plain_umap(model: Any) -> Any:
    """What freezing reads of a UMAP.

    Raises:
        ModelError: one of cuML that is not fitted.
    """
    if not is_cumls(model):
        return model
    if getattr(model, "embedding_", None) is None:
        raise ModelError("the UMAP is not fitted: call fit() before freezing it")
    read = {name: getattr(model, name) for name in _UMAP}
    return SimpleNamespace(
        **read,
        embedding_=on_host(model.embedding_),
        _raw_data=on_host(model._raw_data),
        _sparse_data=bool(getattr(model, "_sparse_data", False)),
        # cuML has no others
        output_metric="euclidean",
        densmap=False,
        unique=False,
    )


def plain_hdbscan(model: Any) -> Any:
    """What freezing reads of an HDBSCAN.

    Raises:
        ModelError: one of cuML that is not fitted, or whose tree is not numbered from the root down.
    """
    if not is_cumls(model):
        return model
    if getattr(model, "labels_", None) is None:
        raise ModelError("the HDBSCAN is not fitted: call fit() before freezing it")
    tree = model.condensed_tree_._raw_tree
    inner = tree[tree["child_size"] > 1]
    if (inner["child"] <= inner["parent"]).any():
        raise ModelError("the HDBSCAN's condensed tree is not numbered from the root down: fit with hdbscan")
    data = model.prediction_data_ if model.prediction_data else None
    read = {name: getattr(model, name) for name in _HDBSCAN}
    return SimpleNamespace(
        **read,
        metric="euclidean" if model.metric == "l2" else model.metric,
        labels_=on_host(model.labels_),
        probabilities_=on_host(model.probabilities_),
        _raw_data=on_host(model._raw_data),
        _condensed_tree=tree,
        _prediction_data=data,
        prediction_data_=data,
    )


def on_host(array: Any) -> Array:
    """An array of cuML or CuPy, in the memory of the host."""
    if hasattr(array, "to_output"):  # cuML's own
        return np.asarray(array.to_output("numpy"))
    if hasattr(array, "get"):  # CuPy's refuses to be copied otherwise
        return np.asarray(array.get())
    return np.asarray(array)
