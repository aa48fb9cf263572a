"""Hand edits of the previous model, made again on a new fit: merged stays merged, dropped stays dropped.

The fit itself knows nothing of edits: it is compared with the clusters that the previous fit found, and gets
their numbers. Then each new cluster goes where the edits sent its images: into the cluster that they were
merged into, into the parts that they were split into, or to "other". A new cluster that is none of the
previous fit's joins an edited one if more than half of its images were there. Classes and golden images do
not depend on the fit: they are kept as they are.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from itertools import count

import numpy as np

from imgclust.editing.classes import AddClass
from imgclust.editing.golden import AddGolden
from imgclust.editing.golden_check import golden_images
from imgclust.editing.log import (
    Change,
    Drop,
    Edit,
    Merge,
    Part,
    Rename,
    RenameGroup,
    Split,
    effective,
)
from imgclust.editing.mapping import EditMap
from imgclust.editing.rules import classes_of
from imgclust.editing.splitting import anchors_of
from imgclust.model.editor import of_clusters_alone
from imgclust.model.folder import Array
from imgclust.model.model import ClusterModel
from imgclust.model.parts import Group
from imgclust.model.taxonomy import COMPARED
from imgclust.naming.namers import names_by_people
from imgclust.training.continuation import Numbering, kept_names
from imgclust.types import OTHER, Floats, Ints


def carry_edits(previous: ClusterModel, numbering: Numbering, arrays: Mapping[str, Array]) -> Numbering:
    """The numbering with the edits that make of the new clusters what people see.

    Args:
        numbering: as the comparison of both fits found it, in fitted clusters.
        arrays: of the new fit.
    """
    kept = _kept(previous)
    previous = of_clusters_alone(previous)
    if previous.edits:
        numbering = _carried(previous, numbering, arrays)
    used = max(numbering.used or 0, previous.next_number)
    return dataclasses.replace(numbering, used=used, edits=(*numbering.edits, *kept))


def _kept(previous: ClusterModel) -> list[Edit]:
    """Classes, with the names that they have now, and golden images, with the numbers."""
    wanted: list[Change] = [
        dataclasses.replace(one, name=previous.name(one.number) or one.name)
        for one in classes_of(previous.edits)
    ]
    wanted += golden_images(previous.edits)
    records = {_key(edit.change): edit for edit in effective(previous.edits)}
    return [dataclasses.replace(records[_key(one)], change=one, carried=True) for one in wanted]


def _key(change: Change) -> object:
    """The same for a class or a golden image, whatever became of it."""
    match change:
        case AddClass(number):
            return number
        case AddGolden(image, _, _, never):
            return image, never
        case _:
            return None


def _carried(previous: ClusterModel, numbering: Numbering, arrays: Mapping[str, Array]) -> Numbering:
    rows = np.sort(np.random.default_rng(0).permutation(len(arrays["labels"]))[:COMPARED])
    found = previous.predict(arrays["embeddings"][rows]).unassigned()
    shown = np.where(found.novel, np.int32(OTHER), found.labels)
    own, points = arrays["labels"][rows], arrays["points"][rows]
    targets = [
        _targets(previous, number, shown[own == cluster]) for cluster, number in enumerate(numbering.numbers)
    ]
    carrying = _Carrying(previous, numbering, targets)
    splits, moves = carrying.splits(own, shown, points), carrying.moves()
    edits = [_on_record(change, previous) for change in [*splits, *moves]]
    edited = EditMap.of(carrying.numbers, edits, points.shape[1])
    parts = set(edited.numbers.tolist()) - set(carrying.numbers)
    named = set(edited.numbers[edited.alive].tolist()) & (parts | set(names_by_people(previous)))
    return dataclasses.replace(
        numbering,
        numbers=carrying.numbers,
        names=carrying.fitted_names(),
        used=max(numbering.used or 0, next(carrying.fresh)),
        edits=(*edits, *_renames(previous, Rename, named)),
    )


def class_pictures(previous: ClusterModel) -> dict[str, bytes]:
    """Pictures of the classes' examples, which no embedding says anything of."""
    wanted = (image for one in classes_of(previous.edits) for image in one.pictures)
    return {image: previous.thumbnails[image] for image in wanted if image in previous.thumbnails}


def carry_group_names(previous: ClusterModel, groups: Iterable[Group]) -> list[Edit]:
    """What people called groups that are still there."""
    return _renames(previous, RenameGroup, {group.id for group in groups})


def _renames(
    previous: ClusterModel, kind: type[Rename] | type[RenameGroup], wanted: Collection[int]
) -> list[Edit]:
    """The edits that named these numbers last, each with the names that still hold."""
    log = [(edit, edit.change.names) for edit in effective(previous.edits) if isinstance(edit.change, kind)]
    last = {number: edit for edit, names in log for number in names}
    found = []
    for edit, names in log:
        holding = {number: names[number] for number in names if number in wanted and last[number] is edit}
        if holding:
            found.append(dataclasses.replace(edit, change=kind(holding), carried=True))
    return found


def _targets(previous: ClusterModel, number: int, shown: Ints) -> tuple[int, ...]:
    """Where the edits sent a cluster: numbers that people see, the largest first; nothing: it is new."""
    fitted = [cluster.id for cluster in previous.fitted_clusters]
    if number in fitted:
        sent = previous.labels_[previous.arrays["labels"] == fitted.index(number)]
        return tuple(target for target, _ in Counter(sent.tolist()).most_common())
    inside = Counter(shown[shown != OTHER].tolist()).most_common(1)
    edited = {cluster.id for cluster in previous.clusters} - set(_untouched(previous))
    return tuple(target for target, images in inside if target in edited and 2 * images > len(shown))


def _untouched(previous: ClusterModel) -> Iterable[int]:
    """Clusters that people see as they were fitted."""
    sizes = {cluster.id: cluster.size for cluster in previous.fitted_clusters}
    return (cluster.id for cluster in previous.clusters if sizes.get(cluster.id) == cluster.size)


class _Carrying:
    """Decides the numbers of fitted clusters, then the edits, so that no number is given twice.

    Attributes:
        numbers: of the fitted clusters, in the order of the fit.
        fresh: numbers that were never used.
    """

    def __init__(self, previous: ClusterModel, numbering: Numbering, targets: list[tuple[int, ...]]) -> None:
        self._previous, self._given, self._targets = previous, numbering, targets
        self.numbers = list(numbering.numbers)
        self.fresh = count(max(numbering.used or 0, previous.next_number, 1 + max(self.numbers)))
        self._merged: dict[int, list[int]] = defaultdict(list)
        self._dropped: list[int] = []
        for target in dict.fromkeys(one for sent in targets if len(sent) == 1 for one in sent):
            wanting = [cluster for cluster, sent in enumerate(targets) if sent == (target,)]
            if target != OTHER and target not in self.numbers:
                self.numbers[wanting[0]] = target  # the first one is what lives on
            for cluster in wanting:
                if self.numbers[cluster] != target:
                    self._send(self.numbers[cluster], target)
        self._taken = set(self.numbers)

    def _send(self, number: int, target: int) -> None:
        if target == OTHER:
            self._dropped.append(number)
        else:
            self._merged[target].append(number)

    def splits(self, own: Ints, shown: Ints, points: Floats) -> list[Change]:
        """Clusters whose images the edits sent to several: parted by where the previous model puts them."""
        changes: list[Change] = []
        for cluster, sent in enumerate(self._targets):
            inside = own == cluster
            parts = [target for target in sent if (inside & (shown == target)).any()]
            if len(sent) < 2 or len(parts) < 2:
                continue
            made = []
            for target in parts:
                number = target if target != OTHER and target not in self._taken else next(self.fresh)
                self._taken.add(number)
                anchors = anchors_of(points[inside & (shown == target)])
                made.append(Part(number, tuple(tuple(map(float, anchor)) for anchor in anchors)))
                if number != target:
                    self._send(number, target)
            changes.append(Split(self.numbers[cluster], tuple(made)))
        return changes

    def moves(self) -> list[Change]:
        """Merges and drops."""
        changes: list[Change] = [Merge(into, tuple(others)) for into, others in self._merged.items()]
        return [*changes, Drop(tuple(self._dropped))] if self._dropped else changes

    def fitted_names(self) -> list[str | None]:
        """Those that clusters of their numbers had, also where a cluster got another number."""
        kept = kept_names(self._previous, self.numbers)
        return [name or given for name, given in zip(kept, self._given.names, strict=True)]


def _on_record(change: Change, previous: ClusterModel) -> Edit:
    """Who made the last edit of this kind, and when."""
    holding = effective(previous.edits)
    alike = [edit for edit in holding if type(edit.change) is type(change)]
    return dataclasses.replace((alike or holding)[-1], change=change, carried=True)
