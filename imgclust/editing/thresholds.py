"""The threshold of a class: the lowest cosine that keeps a precision on images that the class is not made of.

Examples are judged each by the others, as if it were a new image. Without labels, all other images are
presumed not to show the class, and the class is taken to be as frequent as the examples are beside them. An
image among them that does show it counts as an error, so that the threshold is rather too high than too low.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from imgclust.editing.classes import LEAST_PRECISION, MAX_VECTORS, ClassRule, Measured
from imgclust.editing.parsing import as_half
from imgclust.errors import ModelError
from imgclust.types import Floats

LEAST = 5  # images of the class that the threshold lets in: with fewer a precision is luck
COPY = 0.98  # cosine from which an image is an example once more, and says nothing new
FOLDS = 10  # in which many examples are judged
SHOWN = 5  # images that a refusal names
_CHUNK = 4096
_BLOCK = 512  # examples that are compared with all others at once

Cosines = npt.NDArray[np.float64]


def from_examples(
    examples: Floats, others: Floats, precision: float, ids: Sequence[str] | None = None
) -> ClassRule:
    """A class of images that are like one of the examples.

    Args:
        examples: float (m, d), unit-norm.
        others: float (n, d), presumed not to show the class; copies of examples are left out.
        precision: wanted, 0.5..1.
        ids: of the others; a refusal names those that are most like the examples.

    Raises:
        ModelError: too few different examples, or the precision cannot be reached; the text says what can.
    """
    examples = _different(examples)
    if len(examples) < LEAST:
        raise ModelError(
            f"{len(examples)} different examples are too few to find a threshold: give {LEAST} or more"
        )
    own = np.empty(len(examples))
    folds = np.arange(len(examples)) % (len(examples) if len(examples) <= MAX_VECTORS else FOLDS)
    for fold in range(int(folds.max()) + 1):
        own[folds == fold] = likeness(examples[folds == fold], _summed_up(examples[folds != fold]))
    others, ids = _without_copies(others, examples, ids)
    vectors = _summed_up(examples)
    threshold, measured = _chosen(own, likeness(others, vectors), precision, False, ids)
    return ClassRule(tuple(map(as_half, vectors)), threshold, measured)


def from_labels(
    vectors: Floats, shows: Floats, others: Floats, precision: float, phrase: str | None = None
) -> ClassRule:
    """A class of images that are like examples or a phrase, judged by labelled images.

    Args:
        vectors: float (m, d), unit-norm: the examples, or the phrase's one vector.
        shows, others: float (n, d), unit-norm: labelled images that do and do not show the class. Copies of
            examples are left out.
        precision: wanted, 0.5..1.
        phrase: what the vector is of; None: vectors are examples.

    Raises:
        ModelError: too few images that show it, or the precision cannot be reached; the text says what can.
    """
    if phrase is None:
        vectors = _different(vectors)
        shows, others = (_without_copies(rows, vectors)[0] for rows in (shows, others))
        vectors = _summed_up(vectors)
    if len(shows) < LEAST:
        raise ModelError(
            f"{len(shows)} labelled images of the class, the examples left out, are too few to find a "
            f"threshold: label {LEAST} or more"
        )
    threshold, measured = _chosen(likeness(shows, vectors), likeness(others, vectors), precision, True, None)
    return ClassRule(tuple(map(as_half, vectors)), threshold, measured, phrase)


def likeness(rows: Floats, vectors: Floats) -> Cosines:
    """float64 (n,): the largest cosine of each row to one of the vectors, as the predictor has it."""
    columns = vectors.astype(np.float16).astype(np.float64).T
    found = np.empty(len(rows))
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK].astype(np.float16).astype(np.float64)
        found[start : start + _CHUNK] = (part @ columns).max(axis=1)
    return found


def _chosen(
    own: Cosines, others: Cosines, wanted: float, labelled: bool, ids: Sequence[str] | None
) -> tuple[float, Measured]:
    """The lowest cosine of an image of the class from which the precision is reached."""
    if not LEAST_PRECISION <= wanted <= 1:
        raise ModelError(f"a precision is from {LEAST_PRECISION} to 1, got {wanted}")
    cosines = np.unique(own)
    right = len(own) - np.searchsorted(np.sort(own), cosines)
    wrong = len(others) - np.searchsorted(np.sort(others), cosines)
    precision = np.where(right >= LEAST, right / (right + wrong), 0)
    reached = np.flatnonzero(precision >= wanted)
    if not len(reached):
        best = int(precision.argmax())
        recall = right[best] / len(own)
        raise ModelError(
            f"a precision of {wanted:g} cannot be reached: at best {precision[best]:.2f}, with "
            f"{recall:.0%} of the {len(own)} images of the class let in"
            f"{_nearest(others, ids) if ids else ''}. Ask for less (--precision), give clearer examples"
            f"{' or label more images' if labelled else ', or say with --labels which images show it'}"
        )
    at = int(reached[0])
    recall = float(right[at] / len(own))
    measured = Measured(wanted, float(precision[at]), recall, len(own), len(others), labelled)
    return float(cosines[at]), measured


def _nearest(others: Cosines, ids: Sequence[str]) -> str:
    listed = ", ".join(f"{ids[row]!a:.80}" for row in np.argsort(-others, kind="stable")[:SHOWN].tolist())
    return f". Of the images presumed not to show it, most like it are {listed}: perhaps they do"


def _without_copies(
    rows: Floats, examples: Floats, ids: Sequence[str] | None = None
) -> tuple[Floats, Sequence[str] | None]:
    kept = np.flatnonzero(likeness(rows, examples) < COPY)
    return rows[kept], None if ids is None else [ids[row] for row in kept.tolist()]


def _different(rows: Floats) -> Floats:
    """Without those that are copies of an earlier one: judged by its copy, an example is always right."""
    exact = rows.astype(np.float16).astype(np.float64)
    kept = np.ones(len(rows), bool)
    for start in range(0, len(rows), _BLOCK):
        near = exact[start : start + _BLOCK] @ exact.T >= COPY
        for row, alike in enumerate(near, start):
            kept[row] = not (alike[:row] & kept[:row]).any()
    return rows[kept]


def _summed_up(rows: Floats) -> Floats:
    """As they are, or of many the centres of k-means; float32, unit-norm, at most `MAX_VECTORS`."""
    if len(rows) <= MAX_VECTORS:
        return rows
    from sklearn.cluster import KMeans

    found = KMeans(MAX_VECTORS, n_init=1, random_state=0).fit(rows.astype(np.float32)).cluster_centers_
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)
