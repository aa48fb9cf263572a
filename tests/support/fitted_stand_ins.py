"""Objects with the attributes of fitted ones, without the seconds, or the GPU, that those take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


def umap_like(rows: np.ndarray, points: np.ndarray, **others: Any) -> Any:
    """What freezing reads of `umap.UMAP`: unit-norm rows, and the places that it gave them."""
    return SimpleNamespace(
        **{
            "_raw_data": rows, "embedding_": points.astype(np.float32), "_sparse_data": False,
            "unique": False,
            "densmap": False, "output_metric": "euclidean", "metric": "euclidean", "_n_neighbors": 10,
            "_a": 1.8222, "_b": 0.8212, "min_dist": 0.03, "spread": 1.0, "local_connectivity": 1.0,
            "set_op_mix_ratio": 1.0, "negative_sample_rate": 5, "repulsion_strength": 1.0, "n_epochs": 300,
            "learning_rate": 1.0, "random_state": 0, "n_components": points.shape[1],
        }
        | others
    )  # fmt: skip


class OnDevice:
    """An array of CuPy, which does not become one of numpy by itself."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def get(self) -> np.ndarray:
        return self._array
