"""The groups of a fit's clusters, numbered and named in their taxonomy, as clusters are."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from imgclust.model.folder import Array
from imgclust.model.model import ClusterModel
from imgclust.model.parts import Cluster, Group
from imgclust.model.taxonomy import Continuation, continued
from imgclust.naming.clusters import members_of
from imgclust.naming.fitting import FitNamer
from imgclust.training.continuation import Asked
from imgclust.training.levels import Level
from imgclust.types import OTHER, Ints


@dataclasses.dataclass(frozen=True, slots=True)
class NumberedGroups:
    """Groups with their numbers.

    Attributes:
        groups: in the order of the level.
        level: int32 (k + 1,); the place of each cluster's group, -1 in none, then -1.
        used: how many numbers of groups the taxonomy has used; None: no others than these.
        continuation: what became of the previous model's groups.
    """

    groups: tuple[Group, ...]
    level: Ints
    used: int | None = None
    continuation: Continuation | None = None

    @classmethod
    def of(
        cls,
        level: Level | None,
        labels: Ints,
        previous: ClusterModel | None = None,
        asked: Asked | None = None,
    ) -> NumberedGroups:
        """Number the groups of a fit; those of the previous model that it has too keep number and name.

        Args:
            level: None: the fit has no groups.
            labels: int32 (n,); clusters of the training images, 0..k-1, -1 is "other".
            asked: what both fits say of each other's images, where there is a previous one.
        """
        used = previous.next_group or None if previous is not None else None
        if level is None:
            return cls((), np.empty(0, np.int32), used)
        table, count = np.append(level.of_cluster, np.int32(OTHER)), len(level.stability)
        own = table[labels]
        sizes = np.bincount(own[own >= 0], minlength=count).tolist()
        numbers, found = list(range(count)), None
        if previous is not None and asked is not None:
            shared = asked.of_groups(previous.level, table).shared((len(previous.groups), count))
            found = continued(
                shared, sizes, previous.groups, following=previous.next_group, version=previous.version
            )
            numbers, used = found.numbers, max(used or 0, 1 + max(found.numbers, default=-1))
        known = {group.id: group.name for group in previous.groups} if previous is not None else {}
        names = [known.get(number) for number in numbers]
        stable = [round(float(value), 4) for value in level.stability]
        groups = map(Group, numbers, names, sizes, stable)
        return cls(tuple(groups), table, used, found)

    def named(
        self,
        arrays: Mapping[str, Array],
        clusters: Sequence[Cluster],
        namer: FitNamer | None,
        by_hand: Collection[str] = (),
    ) -> NumberedGroups:
        """With names; no group is called as one of the clusters.

        Args:
            arrays, clusters: of the fit, in its order.
            by_hand: names that people gave.
        """
        if namer is None or not self.groups:
            return self
        labels, names = arrays["labels"], [cluster.name for cluster in clusters]
        members = members_of(labels, range(len(clusters)))
        members += members_of(self.level[labels], range(len(self.groups)))
        known = [*names, *(group.name for group in self.groups)]
        taken = {*by_hand, *(name for name in names if name)}
        found = namer.names(arrays["embeddings"], members, known=known, taken=taken)[len(clusters) :]
        groups = (dataclasses.replace(g, name=name) for g, name in zip(self.groups, found, strict=True))
        return dataclasses.replace(self, groups=tuple(groups))

    def put_on(self, clusters: Sequence[Cluster]) -> tuple[Cluster, ...]:
        """The clusters with the numbers of their groups."""
        if not self.groups:
            return tuple(clusters)
        numbers = [*(group.id for group in self.groups), None]
        pairs = zip(clusters, self.level.tolist(), strict=False)
        return tuple(dataclasses.replace(cluster, group=numbers[place]) for cluster, place in pairs)
