"""Different images → those that are trained on, held out, and left for later."""

from __future__ import annotations

import dataclasses

import numpy as np

from imgclust.errors import FitError
from imgclust.training.dedupe import Rows


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """Rows by what becomes of them, in the order in which the fit meets them: int64 arrays.

    Attributes:
        train: fitted; in the order of the model's arrays.
        test: held out; predicted, and judged.
        rest: beyond `max_train`; predicted.
    """

    train: Rows
    test: Rows
    rest: Rows

    def renumbered(self, numbers: Rows) -> Split:
        """The same rows by other numbers: row i is `numbers[i]`."""
        return Split(train=numbers[self.train], test=numbers[self.test], rest=numbers[self.rest])


def split_rows(kept: Rows, *, test_fraction: float, max_train: int, seed: int) -> Split:
    """Shuffle the kept rows, hold a share out, train on at most `max_train` of the others.

    Raises:
        FitError: a share outside 0..0.9, nothing to train on, or a negative seed.
    """
    if not 0 <= test_fraction <= 0.9:
        raise FitError(f"test_fraction must be 0 to 0.9, is {test_fraction}")
    if max_train < 1:
        raise FitError(f"max_train must be at least 1, is {max_train}")
    if seed < 0:
        raise FitError(f"seed must be 0 or more, is {seed}")
    order = np.random.default_rng(seed).permutation(kept)
    held_out = round(test_fraction * len(order))
    test, train, rest = np.split(order, [held_out, held_out + max_train])
    return Split(train=np.sort(train), test=np.sort(test), rest=np.sort(rest))
