"""What names the clusters and the groups of a fit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from imgclust.errors import EncoderError, FitError
from imgclust.model.gallery import Rows
from imgclust.naming.hierarchy import ClassHierarchy, by_hierarchy
from imgclust.naming.phrases import Phrases
from imgclust.types import EncoderIdentity, Floats

if TYPE_CHECKING:
    from imgclust.model.folder import Array


class FitNamer(Protocol):
    """Names clusters while they are fitted. No name is better than a wrong one."""

    def names(
        self,
        rows: Array,
        members: Sequence[Rows],
        *,
        known: Sequence[str | None],
        taken: Collection[str] = (),
    ) -> list[str | None]:
        """A name for each of k clusters, None where there is none.

        Args:
            rows: float (n, d); all training images.
            members: the rows of each cluster.
            known: k names, of clusters that have one from an earlier fit. It stays, unless this namer can
                tell that it has become a wrong one.
            taken: names that none of these clusters gets.
        """
        ...


def check_vocabulary(vocabulary: object) -> None:
    """Before hours of work.

    Raises:
        FitError: it is neither phrases with their vectors nor a namer.
    """
    if vocabulary is None or hasattr(vocabulary, "names"):
        return
    if isinstance(vocabulary, tuple) and len(vocabulary) == 2 and np.ndim(vocabulary[1]) == 2:
        phrases, vectors = vocabulary
        if not isinstance(phrases, str) and len(phrases) == len(vectors):
            return
    raise FitError(
        f"a vocabulary is phrases and a row of numbers for each, as `load_encoder(…).vocabulary(phrases)` "
        f"makes them, or a namer; got {str(vocabulary)!a:.60}"
    )


def fit_namer(
    vocabulary: tuple[Sequence[str], Floats] | FitNamer | None,
    encoder: EncoderIdentity | None,
    weights: Path | None = None,
) -> FitNamer | None:
    """What names the clusters of a fit: what was given, else the hierarchy of ImageNet's classes for `mini`.

    None: nothing does, as without a vocabulary for any other encoder, or without the packages of `mini`.
    """
    if isinstance(vocabulary, tuple):
        return Phrases(*vocabulary)
    if vocabulary is not None or not by_hierarchy(encoder):
        return vocabulary
    try:
        return ClassHierarchy.of(weights)
    except EncoderError:
        return None
