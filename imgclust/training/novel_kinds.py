"""Which images show a kind of picture that a previous model has not seen.

It puts them somewhere all the same, often into a cluster, and no bound on how near they are to its own
images finds them: kinds are not equally dense. But they have each other. Each image has some new ones that
are nearer to it than any that the previous model was trained on; among the same kinds chance says how many,
and where an image and those around it have more, there is something new: if that is so of many of them.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from imgclust.training.dedupe import NEAR
from imgclust.types import Floats, Ints

NEIGHBOURS = 14  # of each image, that are looked at
CHANCE = 0.05  # that an image of a kind that the previous model knows has so many new ones nearest
MANY = 0.4  # of these


def kinds_not_seen(nearest_old: Floats, rows: Ints, cosines: Floats, old: int) -> npt.NDArray[np.bool_]:
    """bool (n,): which of n images show something new; none, where k neighbours are too few to tell.

    Args:
        nearest_old: float32 (n,); cosine to the nearest of the images that the previous model was trained on.
        rows, cosines: int32 and float32 (n, k); the nearest others of the n images, nearest first.
        old: how many images the previous model was trained on.
    """
    unseen = nearest_old < NEAR
    share = unseen.sum() / (unseen.sum() + old)
    if not share:
        return unseen
    in_a_row = max(1.0, math.log(CHANCE) / math.log(share))
    if in_a_row > cosines.shape[1]:
        return np.zeros(len(unseen), bool)
    nearer = (cosines > nearest_old[:, None]).sum(axis=1)
    nearer[~unseen] = 0
    usual = unseen.mean() * share / (1 - share)  # the mean of `nearer`, in one mixture of old and new
    found = unseen & (nearer + nearer[rows].mean(axis=1) > in_a_row + usual)
    return np.asarray(found & (found[rows].mean(axis=1) > MANY))
