"""How much may stay in "other": the score from which on images between clusters are assigned.

It is chosen on held-out images, so that of images like them no more than the target stays in "other". What
that costs is measured on the same images, for a few targets: how many of those that would be assigned are in
the right cluster, beside those that are in clusters anyway.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imgclust.errors import FitError
from imgclust.model.folder import Array
from imgclust.predictor import assignment
from imgclust.predictor.batches import predict_batches
from imgclust.predictor.predictor import FrozenPredictor
from imgclust.training.agreement import Judge
from imgclust.training.dedupe import Rows
from imgclust.types import OTHER, Floats, Ints, Prediction

TARGETS = (0.3, 0.2, 0.15, 0.1, 0.05, 0.0)  # that are measured beside the one that was asked for


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """One target, on held-out images.

    Attributes:
        target: the share that may stay in "other".
        score: of the best candidate, from which on images are assigned; None: nothing needs to be.
        assigned, other: shares of the images that are assigned, and that stay.
        right: share of the assigned images that are in the right cluster; None: none was judged.
        judged: how many of them were.
    """

    target: float
    score: float | None
    assigned: float
    other: float
    right: float | None
    judged: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types."""
        return {
            name: round(value, 4) if isinstance(value, float) and name != "score" else value
            for name, value in dataclasses.asdict(self).items()
        }


@dataclasses.dataclass(frozen=True, slots=True)
class OtherTarget:
    """The target that was asked for, and others beside it.

    Attributes:
        chosen: what was asked for.
        offers: the highest target first; `chosen` among them.
        inside: share of the images in clusters that are in the right one; None: none was judged.
        by: "labels" or "refits".
    """

    chosen: Offer
    offers: tuple[Offer, ...]
    inside: float | None
    by: str

    def table(self) -> dict[str, float] | None:
        """The table "assignment" of the model's parameters; None: nothing needs to be assigned."""
        if self.chosen.score is None:
            return None
        return {"score": self.chosen.score, "target": self.chosen.target}

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types."""
        return {
            "target": self.chosen.target,
            "judged_by": self.by,
            "right_in_clusters": None if self.inside is None else round(self.inside, 4),
            "offers": [offer.to_dict() for offer in self.offers],
        }


def check_target(target: float | None, test_fraction: float) -> None:
    """Refuse, before hours of work, what cannot be met or measured.

    Raises:
        FitError: a share outside 0..1, or no held-out images to measure on.
    """
    if target is None:
        return
    if not 0 <= target < 1:
        raise FitError(f"other_target must be a share from 0 to 1, like 0.1, is {target}")
    if not test_fraction:
        raise FitError("other_target is measured on held-out images: hold some out (test_fraction, now 0)")


def check_labels(labels: Sequence[str | None] | None, images: int) -> None:
    """Refuse another number of labels than of images.

    Raises:
        FitError: both numbers are named.
    """
    if labels is not None and len(labels) != images:
        raise FitError(f"{len(labels)} labels for {images} images: give one for each, None where unknown")


def measure(test: Prediction, rows: Rows, target: float, judge: Judge) -> OtherTarget:
    """Choose the score for a target, and measure it and others.

    Args:
        test: of the held-out images, nothing assigned yet; clusters as the arrays count them.
        rows: int64 (m,); of these, among all that were given to the fit.
        target: the share that may stay in "other".
        judge: says what is right.
    """
    other = float((test.labels == OTHER).mean()) if len(test) else 0.0
    targets = sorted({target, *(t for t in TARGETS if t < other)}, reverse=True)
    where = np.where(test.labels == OTHER, test.candidates[:, 0], test.labels)
    known = np.flatnonzero(where != OTHER)
    votes = judge.votes(rows[known], where[known])
    offers = []
    for wanted in targets:
        score = score_for(test, wanted)
        moved = assignment.assign(test, score)
        some = moved.assigned[known]
        offers.append(
            Offer(
                wanted,
                None if score is None else float(score),
                float(moved.assigned.mean()) if len(test) else 0.0,
                float((moved.labels == OTHER).mean()) if len(test) else 0.0,
                votes.share(some),
                int((votes.judged[some] > 0).sum()),
            )
        )
    chosen = offers[targets.index(target)]
    return OtherTarget(chosen, tuple(offers), votes.share(test.labels[known] != OTHER), judge.by)


def score_for(test: Prediction, target: float) -> np.float32 | None:
    """The highest score that leaves no more than the target in "other", or else the lowest that there is.

    None: no more is there as it is, or nothing can be assigned.
    """
    most = int(np.floor(target * len(test) + 1e-9))
    needed = int((test.labels == OTHER).sum()) - most
    scores = np.sort(test.scores[assignment.assignable(test), 0])[::-1]
    if needed <= 0 or not len(scores):
        return None
    return np.float32(scores[min(needed, len(scores)) - 1])


def as_tagged(
    arrays: Mapping[str, Array], parameters: Mapping[str, Mapping[str, Any]], rows: Rows
) -> tuple[Ints, Floats]:
    """Labels and probabilities of training rows as the model tags them: fitted, or assigned.

    Args:
        rows: int64 (m,); of the training images.
    """
    labels, probabilities = arrays["labels"][rows].copy(), arrays["probabilities"][rows].copy()
    other = np.flatnonzero(labels == OTHER)
    if assignment.TABLE in parameters and len(other):
        predictor = FrozenPredictor(arrays, parameters)
        found = predict_batches(predictor, arrays["embeddings"][rows[other]])
        moved = other[found.assigned]
        labels[moved], probabilities[moved] = (
            found.labels[found.assigned],
            found.probabilities[found.assigned],
        )
    return labels, probabilities
