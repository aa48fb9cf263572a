"""A frozen fit's predictions of all images, and the figures that a user wants of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.model.freeze import basic_figures
from imgclust.model.parts import ModelParts
from imgclust.predictor import assignment, novelty
from imgclust.predictor.batches import predict_batches
from imgclust.predictor.predictor import FrozenPredictor
from imgclust.training.dedupe import Duplicates, Rows
from imgclust.training.other_target import as_tagged
from imgclust.training.split import Split
from imgclust.types import OTHER, Floats, Ints, Prediction

CHECKED = 10_000  # training rows whose predicted label is compared with the fitted one, at most


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a fit says of all images; clusters are numbered as its arrays do.

    Attributes:
        test: of the held-out rows.
        labels: int32 (n,); of every row that was given: fitted for training rows, predicted for others, the
            original's for duplicates. Nothing is assigned in them.
        points: float32 (n, d); the place of every row in the UMAP space, the original's for duplicates.
        checked: how many training rows were predicted, too.
        same: the share of these whose predicted label is the fitted one.
    """

    test: Prediction
    labels: Ints
    points: Floats
    checked: int
    same: float

    def assigned(self, score: float | None) -> Found:
        """With the held-out images that lie between clusters assigned, from this score on."""
        threshold = None if score is None else np.float32(score)
        return dataclasses.replace(self, test=assignment.assign(self.test, threshold))

    def figures(self, split: Split, duplicates: Duplicates) -> dict[str, Any]:
        """The same for the same fit, so without times."""
        share = float(self.test.assigned.mean()) if len(self.test) else 0.0
        assigned = {"assigned": round(share, 4)} if share else {}
        return {
            "images": len(self.labels),
            "duplicates": {"exact": int(duplicates.exact.sum()), "near": int((~duplicates.exact).sum())},
            "train": basic_figures(self.labels[split.train]),
            "test": basic_figures(self.test.labels) | assigned,
            "predicted_as_fitted": {"checked": self.checked, "share": round(self.same, 4)},
        }


def copies(
    split: Split,
    duplicates: Duplicates,
    arrays: Mapping[str, npt.NDArray[Any]],
    parameters: Mapping[str, Mapping[str, Any]],
) -> tuple[Ints, Floats, Floats, int]:
    """The copies of training images that were left out, and how many of them belong to the held-out images.

    A stream repeats itself as the images did that were given: beside so many different images it brings so
    many copies, and a copy of a training image is tagged as that one is.

    Returns:
        Labels, probabilities and cosines of the copies; the number: as many for each held-out image as there
        were copies for each image that was kept.
    """
    place = np.searchsorted(split.train, duplicates.original).clip(max=len(split.train) - 1)
    of_train = split.train[place] == duplicates.original
    rows = place[of_train]
    count = round(len(split.test) * len(duplicates) / len(duplicates.kept))
    labels, probabilities = as_tagged(arrays, parameters, rows)
    return labels, probabilities, duplicates.cosine[of_train], count


def predict_all(
    predictor: FrozenPredictor,
    parts: ModelParts,
    rows: Floats,
    split: Split,
    duplicates: Duplicates,
    novel_rate: float,
    near: float,
    progress: Callable[[float], None],
) -> tuple[Found, dict[str, float]]:
    """Predict all images; the held-out ones, and training ones where these are few, say what is novel.

    Args:
        rows: all that were given.
        near: cosine from which an image is a training image once more; above 1 none is.

    Returns:
        What was found, and the table "novelty" of the model's parameters.
    """
    fitted = parts.arrays["labels"]
    checked = np.sort(np.random.default_rng(0).permutation(len(split.train))[:CHECKED])
    total = len(split.test) + len(split.rest) + len(checked)
    before = 0

    def predicted(part: Rows) -> Prediction:
        nonlocal before
        prediction = predict_batches(
            predictor, rows[part], progress=lambda done: progress((before + done) / total)
        )
        before += len(part)
        return prediction

    test, rest, again = predicted(split.test), predicted(split.rest), predicted(split.train[checked])
    middle, held_out, nearest = parts.arrays["middle"], rows[split.test], test.similarities
    table = novelty.calibrate(rows[split.train], middle, held_out, nearest, novel_rate)
    if near <= 1:
        table["again"] = float(near)
    test = dataclasses.replace(test, novel=novelty.judge(table, middle, held_out, nearest))
    labels = np.full(len(rows), OTHER, np.int32)
    labels[split.train], labels[split.test], labels[split.rest] = fitted, test.labels, rest.labels
    points = np.zeros((len(rows), parts.arrays["points"].shape[1]), np.float32)
    points[split.train], points[split.test], points[split.rest] = (
        parts.arrays["points"],
        test.points,
        rest.points,
    )
    shown_as = duplicates.representative()
    same = float((again.labels == fitted[checked]).mean())
    return Found(test, labels[shown_as], points[shown_as], len(checked), same), table
