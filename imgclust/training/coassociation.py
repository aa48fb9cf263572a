"""What fits on samples of the images say together: who belongs with whom, and which clusters they all find.

The co-association of two images is the share of the refits with both in which they are in the same cluster
(Fred and Jain, "Combining multiple clusterings using evidence accumulation", 2005), or both in none.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.training.dedupe import Rows
from imgclust.types import Floats, Ints

OUTSIDE = -2  # of the sample
APART = 0.05  # refits that are added as ones with both apart, and as many with both together: no edge is lost


@dataclasses.dataclass(frozen=True, slots=True)
class Refit:
    """A fit on some of n images.

    Attributes:
        rows: int64 (m,), ascending; those that it was fitted on.
        labels: int32 (m,); its clusters, counted from 0; -1 is "other".
        tree: its condensed tree, as hdbscan has it.
    """

    rows: Rows
    labels: Ints
    tree: npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Refits:
    """Fits on samples of n images."""

    n: int
    fits: tuple[Refit, ...]

    def coassociation(self, one: Rows | Ints, two: Rows | Ints) -> Floats:
        """float32, 0..1, of pairs of images: how often they are together; a half where no refit has both.

        What is left of an edge of UMAP's graph between them.
        """
        together, both = np.full(len(one), APART, np.float32), np.full(len(one), 2 * APART, np.float32)
        for fit in self.fits:
            there = np.full(self.n, OUTSIDE, np.int32)
            there[fit.rows] = fit.labels
            known = (there[one] != OUTSIDE) & (there[two] != OUTSIDE)
            both += known
            together += known & (there[one] == there[two])
        return together / both
