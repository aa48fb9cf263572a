"""Hand edits of a model: each makes another model, with one more line in its log."""

from __future__ import annotations

import dataclasses
import getpass
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from imgclust.editing.log import (
    MAX_WHO,
    Change,
    Drop,
    Edit,
    Merge,
    Part,
    Rename,
    Split,
    Undo,
    clean_name,
    describe,
    effective,
)
from imgclust.editing.mapping import EditMap
from imgclust.editing.splitting import split_points
from imgclust.errors import ModelError
from imgclust.model.folder import EXEMPLARS
from imgclust.model.gallery import exemplars
from imgclust.model.parts import Cluster, now

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel


@dataclasses.dataclass(frozen=True, slots=True)
class Editor:
    """Edits of one model; see `ClusterModel.edit`. Every method returns the model that the edit makes.

    Numbers stay what they mean: a merged cluster lives on in one number and the others are retired, the parts
    of a split get numbers that were never used, and no number is ever given again.
    """

    model: ClusterModel
    who: str

    @classmethod
    def of(cls, model: ClusterModel, who: str | None) -> Editor:
        """By default, edits are made by the user who is logged in."""
        name = clean_name(who if who is not None else _user()) or "unknown"
        return cls(model, name[:MAX_WHO])

    def rename(self, names: Mapping[int, str | None]) -> ClusterModel:
        """Give clusters other names: number → name; None takes a name away.

        Raises:
            ModelError: no such cluster, or a name that is not one line of at most 200 characters.
        """
        self._check(names)
        return self._made(Rename({int(number): clean_name(name) for number, name in names.items()}))

    def merge(self, into: int, *others: int) -> ClusterModel:
        """Merge clusters into one, which keeps its number and its name; the others are retired.

        Raises:
            ModelError: no such cluster, or a cluster with itself.
        """
        self._check([into, *others])
        if not others or len({into, *others}) != 1 + len(others):
            raise ModelError(f"a merge takes two or more different clusters, got {[into, *others]}")
        return self._made(Merge(int(into), tuple(map(int, others))))

    def split(self, cluster: int, into: int | None = None) -> ClusterModel:
        """Split a cluster by its training images' points; the parts get new numbers, the largest first.

        Args:
            into: how many parts; by default as many as HDBSCAN finds in the coarsest split.

        Raises:
            ModelError: no such cluster, too few images, or no parts to be found.
        """
        self._check([cluster])
        points = self.model.arrays["points"][self.model.labels_ == cluster]
        following = self.model.next_number
        parts = [
            Part(following + i, tuple(tuple(map(float, anchor)) for anchor in anchors))
            for i, anchors in enumerate(split_points(points, into))
        ]
        return self._made(Split(int(cluster), tuple(parts)))

    def drop(self, *clusters: int) -> ClusterModel:
        """Retire clusters; their images become "other".

        Raises:
            ModelError: no such cluster, or no cluster would be left.
        """
        self._check(clusters)
        if not clusters or len(set(clusters)) == len(self.model.clusters):
            raise ModelError("drop one cluster or more, and leave one: a model without clusters tags nothing")
        return self._made(Drop(tuple(map(int, dict.fromkeys(clusters)))))

    def undo(self) -> ClusterModel:
        """Take back the last edit that still holds.

        Raises:
            ModelError: there is none.
        """
        if not effective(self.model.edits):
            raise ModelError(f"there is nothing to undo: model {self.model.version} has no edit that holds")
        return self._made(Undo())

    def _check(self, numbers: Mapping[int, str | None] | Sequence[int]) -> None:
        there = {cluster.id for cluster in self.model.clusters}
        for number in numbers:
            if number not in there:
                raise ModelError(f"the model has no cluster {number}{self._fate(number)}: {_some(there)}")

    def _fate(self, number: int) -> str:
        """What became of a cluster that was edited away."""
        for edit in reversed(effective(self.model.edits)):
            change = edit.change
            gone = change.cluster if isinstance(change, Split) else None
            if number == gone or (isinstance(change, Merge | Drop) and number in change.clusters):
                return f" ({describe(change)})"
        return ""

    def _made(self, change: Change) -> ClusterModel:
        edit = Edit(change, self.who, now(), self.model.version)
        return with_edits(self.model, (*self.model.edits, edit))


def with_edits(model: ClusterModel, log: Sequence[Edit]) -> ClusterModel:
    """The model with another log: what was fitted, as the edits make it. The same taxonomy."""
    fitted = model.fitted_clusters
    edits = EditMap.of([cluster.id for cluster in fitted], log, model.arrays["points"].shape[1])
    return dataclasses.replace(
        model,
        clusters=_clusters(model, edits, log),
        fitted=fitted,
        edits=tuple(log),
        continues=model.taxonomy,
        used=max(model.next_number, 1 + int(edits.numbers.max(initial=-1))),
        created=now(),
        known_version=None,
    )


def _groups(fitted: Sequence[Cluster], log: Sequence[Edit]) -> dict[int, int | None]:
    """Number → group: parts are in the group of what was split, and a merged cluster stays in its own."""
    found = {cluster.id: cluster.group for cluster in fitted}
    for edit in effective(log):
        if isinstance(edit.change, Split):
            for part in edit.change.parts:
                found[part.cluster] = found.get(edit.change.cluster)
    return found


def _clusters(model: ClusterModel, edits: EditMap, log: Sequence[Edit]) -> tuple[Cluster, ...]:
    """The clusters that people see: sizes counted, names as given, typical images of what they hold."""
    fitted, arrays = model.fitted_clusters, model.arrays
    places = edits.places(arrays["labels"], arrays["points"])
    sizes = np.bincount(places[places >= 0], minlength=len(edits.numbers))
    typical = _typical(model, places)
    names = {cluster.id: cluster.name for cluster in fitted} | dict(edits.names)
    stable = {(cluster.id, cluster.size): cluster.stability for cluster in fitted}  # of what was left alone
    groups = _groups(fitted, log)
    found = []
    for place in edits.alive.tolist():
        number, size = int(edits.numbers[place]), int(sizes[place])
        exemplars = tuple(typical.get(place, ())[:EXEMPLARS])
        stability, group = stable.get((number, size)), groups.get(number)
        found.append(Cluster(number, names.get(number), size, exemplars, stability, group))
    return tuple(found)


def _typical(model: ClusterModel, places: np.ndarray) -> dict[int, list[str]]:
    """Place → ids of typical images: those of the fitted clusters, in turns where several became one.

    Their order is that of the fit, so that the pictures that are stored are the ones that are shown.
    """
    labels, arrays = model.arrays["labels"], model.arrays
    rows = exemplars(arrays["embeddings"], labels, arrays["probabilities"])
    found: dict[int, list[tuple[int, str]]] = {}
    for cluster, typical in zip(model.fitted_clusters, rows, strict=True):
        ranks: dict[int, int] = {}
        for row, image in zip(typical.tolist(), cluster.exemplars, strict=False):
            place = int(places[row])
            found.setdefault(place, []).append((ranks.setdefault(place, 0), image))
            ranks[place] += 1
    return {
        place: [image for _, image in sorted(ids, key=lambda pair: pair[0])] for place, ids in found.items()
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown"


def _some(numbers: set[int]) -> str:
    listed = ", ".join(map(str, sorted(numbers)[:20]))
    return f"it has {listed}{' …' if len(numbers) > 20 else ''}"
