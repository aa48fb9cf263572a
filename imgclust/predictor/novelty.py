"""Novel: unlike everything a model was trained on, judged in the encoder's space.

UMAP places anything somewhere, noise and blank pictures as well as a new meme, so this is judged before it.
An image is novel when it is far from the nearest training image, or far from the mean direction of them
all. The first finds pictures of something new; the second those that show little of anything, which lie near
some sparse training picture, but less in the direction that all pictures share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.errors import FitError, ModelError
from imgclust.predictor.ivf import shuffled
from imgclust.types import Floats

NOVEL_RATE = 0.001  # of images like the training ones that may be called novel

HIGHEST_RATE = 0.2  # of images like the training ones that may be called novel
CALIBRATING = 20_000  # images that thresholds are taken from, at most: of the default rate 10 lie beyond each
BLOCK = 8192
COMPARED = 1024  # rows that are compared with all others at once

Direction = npt.NDArray[np.float16]
Rows = npt.NDArray[np.int64]


def check_rate(rate: float) -> None:
    """Refuse a share that would call a good part of all images novel.

    Raises:
        FitError: outside 0..0.2.
    """
    if not 0 <= rate <= HIGHEST_RATE:
        raise FitError(f"novel_rate must be 0 to {HIGHEST_RATE}, is {rate}")


def mean_direction(embeddings: npt.NDArray[Any]) -> Direction:
    """float16 (D,): the mean direction of embeddings (n, D), unit-norm; zeros where they have none.

    Products of two rows of float16 values of length 1, and their sums, are exact in float64: cosines to the
    mean are the same in any order, on any processor.
    """
    total = np.zeros(embeddings.shape[1])
    for start in range(0, len(embeddings), BLOCK):
        total += embeddings[start : start + BLOCK].sum(axis=0, dtype=np.float64)
    length = float(np.linalg.norm(total))
    return (total / length if length else total).astype(np.float16)


def stored_mean_direction(
    arrays: Mapping[str, npt.NDArray[Any]], table: Mapping[str, float]
) -> Direction | None:
    """The mean direction by which a model judges.

    None: a folder from before it was stored, or a threshold given by hand.

    Raises:
        ModelError: it is missing.
    """
    if "middle" not in table:
        return None
    if "middle" not in arrays:
        raise ModelError("the array 'middle' of the model is missing: copy the model folder, or fit again")
    return arrays["middle"]


def cosines_to(mean: Direction, embeddings: Floats) -> npt.NDArray[np.float64]:
    """float64 (m,): exact products of embeddings of float16 values, (m, D), with the mean direction."""
    return embeddings.astype(np.float64) @ mean.astype(np.float64)


def calibrate(
    training: Floats, mean: Direction, held_out: Floats, nearest: Floats, rate: float = NOVEL_RATE
) -> dict[str, float]:
    """The table "novelty" of a model's parameters: cosines below which an image is novel.

    Held-out images say them; where these are few, training images too, each compared with the others. Half
    of the rate goes to each threshold, so that both together stay within it.

    Args:
        training: (n, D) embeddings.
        mean: their direction.
        held_out: (h, D).
        nearest: (h,) cosines of these to the nearest of the training embeddings.
        rate: share of images like the training ones that may be called novel, 0..0.2.
    """
    asked = np.sort(shuffled(len(training))[: max(0, CALIBRATING - len(held_out))])
    near = np.concatenate([nearest, nearest_other(training, asked)])
    central = np.concatenate([cosines_to(mean, held_out), cosines_to(mean, training[asked])])
    lowest = np.float32(np.quantile(near, rate / 2, method="lower"))
    return {
        # one step lower, as cosines to the nearest are judged before they are rounded
        "threshold": float(np.nextafter(lowest, np.float32(-1))),
        "middle": float(np.quantile(central, rate / 2, method="lower")),
        "rate": float(rate),
    }


def judge(
    table: Mapping[str, float], mean: Direction | None, embeddings: Floats, nearest: npt.NDArray[Any]
) -> npt.NDArray[np.bool_]:
    """bool (m,): which of the embeddings, (m, D), are novel.

    Args:
        table: of `calibrate`.
        mean: as `stored_mean_direction` gives it.
        nearest: (m,) cosines to the nearest training embedding.
    """
    far: npt.NDArray[np.bool_] = nearest < table["threshold"]
    if mean is None:
        return far
    return far | (cosines_to(mean, embeddings) < table["middle"])


def nearest_other(rows: Floats, asked: Rows | None = None) -> Floats:
    """float32: the cosine of each row, or of the rows numbered `asked`, to the nearest of the others."""
    asked = np.arange(len(rows)) if asked is None else asked
    found = np.empty(len(asked), np.float32)
    lengths = np.linalg.norm(rows, axis=1)
    for start in range(0, len(asked), COMPARED):
        part = asked[start : start + COMPARED]
        products = (rows[part] @ rows.T) / lengths / lengths[part, None]
        products[np.arange(len(part)), part] = -1
        found[start : start + COMPARED] = products.max(axis=1)
    return found
