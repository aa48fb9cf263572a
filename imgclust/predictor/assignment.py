"""Images between clusters → their best candidate, where its score is high enough.

HDBSCAN leaves what lies between its clusters to "other". A model may say from which score of the best
candidate on such an image is put into that cluster all the same; the score is then its probability. Images
that are novel stay in "other": nothing is known of them. The scores are there already, so this costs nothing,
and it is a function of each row's prediction alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from imgclust.errors import ModelError
from imgclust.types import OTHER, Bools, Prediction

TABLE = "assignment"  # of a model's parameters; a model without it assigns nothing


def threshold_of(parameters: Mapping[str, Mapping[str, Any]]) -> np.float32 | None:
    """The score from which on a model assigns; None: it assigns nothing.

    Raises:
        ModelError: it is not a score.
    """
    if TABLE not in parameters:
        return None
    table: Any = parameters[TABLE]
    score = table.get("score") if isinstance(table, Mapping) else None
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 < score <= 1:
        raise ModelError(
            f'the score of the model\'s "{TABLE}" must be above 0 and at most 1, is {score!a:.40}'
        )
    return np.float32(score)


def assignable(prediction: Prediction) -> Bools:
    """bool (m,): images in "other" that are not novel and have a candidate."""
    best = prediction.scores[:, 0] > 0
    found: Bools = (prediction.labels == OTHER) & ~prediction.novel & best
    return found


def assign(prediction: Prediction, threshold: np.float32 | None) -> Prediction:
    """Put images between clusters into their best candidate, from this score on; None: none of them."""
    if threshold is None:
        return prediction
    assigned = assignable(prediction) & (prediction.scores[:, 0] >= threshold)
    return dataclasses.replace(
        prediction,
        labels=np.where(assigned, prediction.candidates[:, 0], prediction.labels),
        probabilities=np.where(assigned, prediction.scores[:, 0], prediction.probabilities),
        assigned=assigned,
    )
