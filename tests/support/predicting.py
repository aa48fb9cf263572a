"""What another process is asked for: beside the model it loads this module, and nothing that fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel


def predicted(model: ClusterModel, rows: np.ndarray) -> np.ndarray:
    return model.predict(rows).labels
