"""Classes, decided before the clusters: one small product of the embeddings with the classes' vectors.

Products of two rows of float16 values of length 1, and their sums, are exact in float64 (see
`imgclust.predictor.novelty.mean_direction`): a cosine is the same in any order of summation, so an image's
class does not depend on the batch that it comes in, on threads or on the processor.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from imgclust.types import OTHER, Floats, Ints, Prediction

_CHUNK = 4096  # rows in float64 at once


@dataclasses.dataclass(frozen=True, slots=True)
class ClassRules:
    """c classes with m vectors together, in the order in which they were added.

    Attributes:
        numbers: int32 (c,).
        vectors: float64 (D, m); of float16 values, length 1; those of a class side by side.
        starts: int64 (c,); the first vector of each class.
        thresholds: float64 (c,); the least cosine to one of its vectors.
        shares: float32 (c,); 0.5..1, the precision that each was made for.
    """

    numbers: Ints
    vectors: npt.NDArray[np.float64]
    starts: npt.NDArray[np.int64]
    thresholds: npt.NDArray[np.float64]
    shares: Floats

    def decide(self, embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
        """int64 (n,): which class each row belongs to, 0..c-1; −1: none. Of several, the one added first.

        Args:
            embeddings: (n, D), unit-norm; rounded to float16 values, as for the clusters.
        """
        found = np.empty(len(embeddings), np.int64)
        for start in range(0, len(embeddings), _CHUNK):
            part = embeddings[start : start + _CHUNK].astype(np.float16).astype(np.float64)
            best = np.maximum.reduceat(part @ self.vectors, self.starts, axis=1)
            holds = best >= self.thresholds
            found[start : start + _CHUNK] = np.where(holds.any(axis=1), holds.argmax(axis=1), OTHER)
        return found

    def relabel(self, labels: Ints, embeddings: npt.NDArray[np.floating]) -> Ints:
        """int32 (n,): `labels`, but for images of a class, which have its number."""
        place = self.decide(embeddings)
        return np.where(place >= 0, self.numbers[place], labels).astype(np.int32)

    def apply(self, prediction: Prediction, embeddings: npt.NDArray[np.floating]) -> Prediction:
        """A prediction of clusters → with the classes of the same rows.

        A class has the probability, and the score, of the precision that it was made for. What is left of 1
        is divided among the clusters as their own scores are.
        """
        place = self.decide(embeddings)
        rows = np.flatnonzero(place >= 0)
        if not len(rows):
            return prediction
        numbers, shares = self.numbers[place[rows]], self.shares[place[rows]]
        labels, probabilities = prediction.labels.copy(), prediction.probabilities.copy()
        candidates, scores = prediction.candidates.copy(), prediction.scores.copy()
        left = scores[rows, :-1] * (np.float32(1) - shares)[:, None]
        others = np.where(left > 0, candidates[rows, :-1], np.int32(OTHER))
        labels[rows], probabilities[rows] = numbers, shares
        candidates[rows] = np.concatenate([numbers[:, None], others], axis=1)
        scores[rows] = np.concatenate([shares[:, None], left], axis=1)
        return dataclasses.replace(
            prediction,
            labels=labels,
            probabilities=probabilities,
            candidates=candidates,
            scores=scores,
            assigned=prediction.assigned & (place < 0),
        )
