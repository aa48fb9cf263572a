"""Frozen arrays → what the predictor searches in, derived once when a model is made or loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.errors import ModelError
from imgclust.predictor import int8, novelty
from imgclust.predictor.ivf import BLOCK, build_ivf, shortlist_length
from imgclust.predictor.kdtree import build_order
from imgclust.predictor.umap_transform import build_tables

Arrays = Mapping[str, npt.NDArray[Any]]


METRICS = ("euclidean", "cosine")


LARGEST = 1.001  # in a unit vector after rounding; sums of products of such rows are exact


def prepare(arrays: Arrays, params: Mapping[str, Mapping[str, Any]]) -> dict[str, npt.NDArray[Any]]:
    """Arrays that a prediction needs beside the fitted ones; a pure function, computed once for a model.

    Args:
        arrays: `embeddings` float16 (n, D), `points` float32 (n, d).
        params: with the tables "umap" and "hdbscan".

    Returns:
        `kd_order` int32 (n,); the arrays of `ivf.build_ivf`; `attraction` and `repulsion` float32,
        `knn_target` float64 (1,); `middle` float16 (D,).
    """
    return {
        "kd_order": build_order(arrays["points"]),
        **build_ivf(arrays["embeddings"], params["umap"]["n_neighbors"]),
        **build_tables(params["umap"]),
        "middle": novelty.mean_direction(arrays["embeddings"]),
    }


def check_prepared(arrays: Arrays, neighbours: int) -> None:
    """Refuse prepared arrays that would send a search out of bounds: a folder can come from anywhere."""
    n, dim = arrays["embeddings"].shape
    order, rows, starts = arrays["kd_order"], arrays["code_rows"], arrays["cell_starts"]
    width = int8.width(dim)
    for name, holds in {
        "kd_order": order.dtype == np.int32 and np.array_equal(np.sort(order), np.arange(n)),
        "code_rows": rows.dtype == np.int32 and np.array_equal(np.sort(rows[rows >= 0]), np.arange(n)),
        "codes": arrays["codes"].dtype == np.int8 and arrays["codes"].shape == (len(rows), width),
        "cell_starts": starts.dtype == np.int32
        and len(starts) > 1
        and starts[0] == 0
        and starts[-1] == len(rows)
        and not (starts % BLOCK).any()
        and _least_rows(rows, starts) >= shortlist_length(n, neighbours),
        "cell_centres": arrays["cell_centres"].dtype == np.int8
        and arrays["cell_centres"].shape == (len(starts) - 1, width),
        "cell_margin": arrays["cell_margin"].shape == (1,) and arrays["cell_margin"][0] >= 0,
        "code_scale": arrays["code_scale"].shape == (1,) and 0.0 < arrays["code_scale"][0] <= int8.FINEST,
        "squares": arrays["squares"].dtype == np.float64 and arrays["squares"].shape == (n,),
        "attraction": arrays["attraction"].dtype == np.float32 and arrays["attraction"].ndim == 1,
        "repulsion": arrays["repulsion"].dtype == np.float32 and arrays["repulsion"].ndim == 1,
        "knn_target": arrays["knn_target"].shape == (1,),
        "middle": "middle" not in arrays or _direction(arrays["middle"], dim),
    }.items():
        if not holds:
            raise ModelError(
                f"the array {name!r} of the model is damaged: copy the model folder again, or fit again"
            )


def _direction(array: npt.NDArray[Any], dim: int) -> bool:
    return array.dtype == np.float16 and array.shape == (dim,) and bool((np.abs(array) <= LARGEST).all())


def _least_rows(rows: npt.NDArray[np.int32], starts: npt.NDArray[np.int32]) -> int:
    """Training rows in the smallest cell; 0 where cells overlap or run backwards."""
    if (np.diff(starts) <= 0).any():
        return 0
    return int(np.add.reduceat(rows >= 0, starts[:-1], dtype=np.int64).min())
