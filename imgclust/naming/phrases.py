"""Names from phrases that the encoder can place: the nearest one, if it is near enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from imgclust.errors import EncoderError
from imgclust.naming.clusters import found_clusters
from imgclust.types import OTHER, EncoderIdentity, Floats

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel


Vocabulary = Callable[[EncoderIdentity], tuple[Sequence[str], Floats]]


@dataclasses.dataclass(frozen=True, slots=True)
class PhraseNamer:
    """See `imgclust.model.naming`.

    Attributes:
        vocabulary: an encoder's identity → phrases, and their vectors in its space.
    """

    vocabulary: Vocabulary

    def names(self, model: ClusterModel) -> Mapping[int, str | None]:
        """Raises EncoderError: the model does not know its encoder, or that cannot place the phrases."""
        from imgclust.model.gallery import centres
        from imgclust.model.naming import name_clusters

        if model.encoder is None:
            raise EncoderError(
                f"model {model.version} does not say which encoder it takes, so phrases cannot be placed"
            )
        numbers = [cluster.id for cluster in found_clusters(model)]
        place = {number: i for i, number in enumerate(numbers)}
        labels = np.array([place.get(number, OTHER) for number in model.labels_.tolist()], np.int32)
        found = name_clusters(centres(model.arrays["embeddings"], labels), *self.vocabulary(model.encoder))
        return dict(zip(numbers, found, strict=True))
