"""What a cluster's number means: the images that it was first given to, and how far today's are from them.

A cluster that changes a little at each fit shares most of its images with the one before it, every time, and
may still end up showing something else. So a number keeps the mean direction of its first images, and how
near to it they lay: the images of every later fit are judged by that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from imgclust.model.folder import Array
from imgclust.model.gallery import centres
from imgclust.types import Floats, Ints

QUANTILES = (0.05, 0.5)
NARROWEST = 1e-3  # of cosines: copies of one picture differ by less, and mean the same


@dataclasses.dataclass(frozen=True, slots=True)
class Births:
    """Of k clusters, in the order of a fit.

    Attributes:
        directions: float16 (k, D); the mean direction of the images that each number was first given to.
        cosines: float32 (k, 2); below the first 5 % of these images lay, below the second half of them.
    """

    directions: npt.NDArray[np.float16]
    cosines: Floats

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> Births:
        """What is kept; a model that starts a taxonomy keeps nothing, as all is in its own images."""
        if "births" in arrays:
            return cls(arrays["births"], arrays["birth_cosines"])
        return cls.now(arrays["embeddings"], arrays["labels"])

    @classmethod
    def now(cls, embeddings: Array, labels: Ints) -> Births:
        """Of clusters that are new in this fit.

        Each image is compared with the direction of the others, as later ones will be: few images lie nearer
        to a mean that they are part of.
        """
        directions = centres(embeddings, labels)
        cosines = np.zeros((len(directions), 2), np.float32)
        for cluster in range(len(directions)):
            rows = embeddings[labels == cluster].astype(np.float32)
            others = rows.sum(axis=0) - rows
            lengths = np.maximum(np.linalg.norm(others, axis=1), np.finfo(np.float32).tiny)
            near = np.einsum("ij,ij->i", rows, others) / lengths
            cosines[cluster] = np.quantile(near, QUANTILES)
        return cls(directions.astype(np.float16), cosines)

    def arrays(self) -> dict[str, Array]:
        """As a model keeps them; `of` reads them."""
        return {"births": self.directions, "birth_cosines": self.cosines}

    def kept(self, before: Births, matched: Ints) -> Births:
        """With those of the previous model's clusters where a cluster is one of them.

        Args:
            matched: int (k,); the place of each in the previous model, -1: it is new.
        """
        old = matched >= 0
        directions, cosines = self.directions.copy(), self.cosines.copy()
        directions[old], cosines[old] = before.directions[matched[old]], before.cosines[matched[old]]
        return Births(directions, cosines)

    def meanings(self, embeddings: Array, labels: Ints, count: int) -> npt.NDArray[np.float64]:
        """How much the clusters of a new fit still are what each number was first given to.

        1: half of its images lie as near to the first ones' direction as half of these did; 0: half of them
        lie outside of what all but a twentieth of these lay within.

        Args:
            embeddings: float (n, D); of the new fit.
            labels: int (n,); 0..count - 1, -1 is "other".

        Returns:
            float64 (k, count).
        """
        found = np.zeros((len(self.directions), count))
        directions = self.directions.astype(np.float32)
        directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        for cluster in range(count):
            rows = embeddings[labels == cluster].astype(np.float32)
            found[:, cluster] = np.median(rows @ directions.T, axis=0)
        edge, middle = self.cosines.astype(np.float64).T
        width = np.maximum(middle - edge, NARROWEST)
        return np.asarray((found - edge[:, None]) / width[:, None])
