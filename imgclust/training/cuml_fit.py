"""A fit's UMAP and HDBSCAN by cuML, on a GPU: the same parameters, and the arrays that a model is made of.

Samples that say how stable clusters are, and everything after, stay on the processor. cuML takes no places to
start from and no weights of edges, so that a fit that continues a taxonomy does so by what its clusters hold
alone, and there is no consensus.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from imgclust.errors import FitError, ImgclustError
from imgclust.model.cuml_pair import plain_hdbscan, plain_umap
from imgclust.training.parameters import Parameters
from imgclust.types import Floats

ENGINES = ("cpu", "cuml")


def check_engine(engine: str) -> None:
    """Refuse an engine that there is not.

    Raises:
        FitError: an unknown name.
        ImgclustError: cuML cannot be imported; the text says what to install.
    """
    if engine not in ENGINES:
        raise FitError(f"unknown engine {engine!a:.100}; there are {' and '.join(ENGINES)}")
    if engine == "cuml":
        _cuml()


def for_engine(engine: str, p: Parameters) -> Parameters:
    """The parameters of what this engine does."""
    return dataclasses.replace(p, consensus=0) if engine == "cuml" else p


def cuml_version() -> str:
    return str(_cuml().__version__)


def fit_umap(rows: Floats, p: Parameters) -> Any:
    """What freezing reads of a fitted `cuml.manifold.UMAP`; see `imgclust.model.cuml_pair`."""
    _cuml()
    return plain_umap(
        importlib.import_module("cuml.manifold")
        .UMAP(
            n_neighbors=p.n_neighbors,
            n_components=p.n_components,
            min_dist=p.min_dist,
            n_epochs=p.n_epochs,
            metric=p.metric,
            random_state=p.random_state,
        )
        .fit(rows)
    )


def fit_hdbscan(points: Floats, p: Parameters) -> Any:
    """What freezing reads of a fitted `cuml.cluster.HDBSCAN`."""
    limited = p.cluster_selection_method == "eom" and p.max_cluster_share < 1
    return plain_hdbscan(
        importlib.import_module("cuml.cluster")
        .HDBSCAN(
            min_cluster_size=p.min_cluster_size,
            min_samples=p.min_samples,
            cluster_selection_method="leaf" if p.cluster_selection_method == "leaf" else "eom",
            max_cluster_size=int(p.max_cluster_share * len(points)) if limited else 0,
            prediction_data=True,
        )
        .fit(points)
    )


def _cuml() -> Any:
    try:
        return importlib.import_module("cuml")
    except ImportError as error:
        raise ImgclustError(
            "the engine cuml needs cuML, and an NVIDIA GPU with Linux: pip install 'imgclust[gpu]' "
            f"(CUDA 13: cuml-cu13); {error}"
        ) from None
