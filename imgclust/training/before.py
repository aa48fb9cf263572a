"""What a previous model says of the images that the next one is trained on."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from imgclust.types import Floats, Ints


@dataclasses.dataclass(frozen=True, slots=True)
class Before:
    """Of n images; every array has a row for each.

    Attributes:
        labels: int32 (n,); as its arrays count clusters; "other", too, what is unlike all that it knows, and
            what is new.
        groups: int32 (n,); as it counts its groups; -1 in none.
        points: float32 (n, d); where it puts them.
        new: bool (n,); whether they show something that it has not seen, wherever it puts them.
        seen: bool (n,); whether it was trained on them, or on copies of them.
    """

    labels: Ints
    groups: Ints
    points: Floats
    new: npt.NDArray[np.bool_]
    seen: npt.NDArray[np.bool_]

    def places(self, dimensions: int) -> Floats | None:
        """Where UMAP may start; None where the previous one had another number of dimensions."""
        return self.points if self.points.shape[1] == dimensions else None
