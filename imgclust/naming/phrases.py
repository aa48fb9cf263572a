"""Names from phrases that the encoder can place: the nearest one, if it is near enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from imgclust.errors import EncoderError
from imgclust.model.gallery import Rows, directions
from imgclust.naming.clusters import found_clusters, members_of
from imgclust.naming.nearest import name_clusters
from imgclust.types import EncoderIdentity, Floats

if TYPE_CHECKING:
    from imgclust.model.folder import Array
    from imgclust.model.model import ClusterModel


Vocabulary = Callable[[EncoderIdentity], tuple[Sequence[str], Floats]]


@dataclasses.dataclass(frozen=True, slots=True)
class Phrases:
    """Names clusters in a fit; see `imgclust.naming.fitting.FitNamer` and `imgclust.naming.nearest`.

    Attributes:
        phrases: m names.
        vectors: float32 (m, d), unit-norm; their embeddings.
    """

    phrases: Sequence[str]
    vectors: Floats

    def names(
        self,
        rows: Array,
        members: Sequence[Rows],
        *,
        known: Sequence[str | None],
        taken: Collection[str] = (),
    ) -> list[str | None]:
        """See `imgclust.naming.fitting.FitNamer`."""
        return name_clusters(directions(rows, members), self.phrases, self.vectors, known=known, taken=taken)


@dataclasses.dataclass(frozen=True, slots=True)
class PhraseNamer:
    """Names the clusters of a model.

    Attributes:
        vocabulary: an encoder's identity → phrases, and their vectors in its space.
    """

    vocabulary: Vocabulary

    def names(self, model: ClusterModel) -> Mapping[int, str | None]:
        """Raises EncoderError: the model does not know its encoder, or that cannot place the phrases."""
        if model.encoder is None:
            raise EncoderError(
                f"model {model.version} does not name its encoder, so phrases cannot be placed"
            )
        numbers = [cluster.id for cluster in found_clusters(model)]
        namer, members = Phrases(*self.vocabulary(model.encoder)), members_of(model.labels_, numbers)
        found = namer.names(model.arrays["embeddings"], members, known=[None] * len(numbers))
        return dict(zip(numbers, found, strict=True))
