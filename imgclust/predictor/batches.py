"""Many rows → one prediction, a batch at a time, with word of how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.types import Prediction, Predictor

BATCH = 256


def predict_batches(
    predictor: Predictor,
    rows: npt.NDArray[Any],
    *,
    batch: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> Prediction:
    """Predict rows, which are rounded to float16 values as what is stored and fitted is.

    Args:
        rows: (n, D) of any float type, unit-norm.
        batch: rows at a time; of no influence on the result.
        progress: called with the number of rows that are done.
    """
    parts = []
    for start in range(0, max(len(rows), 1), batch):
        part = rows[start : start + batch].astype(np.float16).astype(np.float32)
        parts.append(predictor.predict(part))
        if progress:
            progress(min(start + batch, len(rows)))
    return Prediction.concat(parts)
