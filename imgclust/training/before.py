"""What a previous model says of the images that the next one is trained on."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from imgclust.types import Floats, Ints


@dataclasses.dataclass(frozen=True, slots=True)
class Before:
    """Of n images.

    Attributes:
        labels: int32 (n,); as its arrays count clusters; "other", too, what is unlike all that it knows.
        groups: int32 (n,); as it counts its groups; -1 in none.
        points: float32 (n, d); where it puts them.
        known: bool (n,); whether it knows them well. It does not know what it puts into no cluster.
    """

    labels: Ints
    groups: Ints
    points: Floats
    known: npt.NDArray[np.bool_]

    def places(self, dimensions: int) -> Floats | None:
        """Where UMAP may start; None where the previous one had another number of dimensions."""
        return self.points if self.points.shape[1] == dimensions else None
