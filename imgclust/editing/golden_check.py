"""The golden images that a log of hand edits holds, and which of them a model breaks. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from imgclust.editing.classes import RemoveClass
from imgclust.editing.golden import AddGolden, RemoveGolden
from imgclust.editing.log import Change, Drop, Edit, Merge, Split, effective
from imgclust.types import OTHER


@dataclasses.dataclass(frozen=True, slots=True)
class BrokenGolden:
    """A golden image, and the cluster that a model puts it into instead."""

    golden: AddGolden
    label: int


def golden_images(log: Sequence[Edit]) -> list[AddGolden]:
    """The golden images, in the order in which they were added; clusters have the numbers of now.

    What was merged, split or dropped afterwards is followed: an image of a merged cluster must be in the one
    that lives on, an image of a split one in one of its parts. An image that must not be in a cluster may be
    in the one that it was merged into.
    """
    there: list[AddGolden] = []
    for edit in effective(log):
        change = edit.change
        if isinstance(change, AddGolden):
            same = (change.image, change.never)
            there = [*(one for one in there if (one.image, one.never) != same), change]
        elif isinstance(change, RemoveGolden):
            there = [one for one in there if one.image != change.image]
        else:
            followed = (_followed(one, change) for one in there)
            there = [one for one in followed if one.clusters]
    return there


def _followed(golden: AddGolden, change: Change) -> AddGolden:
    now: list[int] = []
    for cluster in golden.clusters:
        match change:
            case Merge(into, clusters) if cluster in clusters:
                now += [] if golden.never else [into]
            case Drop(clusters) if cluster in clusters:
                now += [] if golden.never else [OTHER]
            case Split(split, parts) if cluster == split:
                now += [part.cluster for part in parts]
            case RemoveClass(number) if cluster == number:
                pass
            case _:
                now.append(cluster)
    return dataclasses.replace(golden, clusters=tuple(dict.fromkeys(now)))


def broken(golden: Sequence[AddGolden], labels: Sequence[int]) -> list[BrokenGolden]:
    """Those that a model breaks.

    Args:
        labels: of the golden images, as the model predicts them; −1 is "other".
    """
    return [
        BrokenGolden(one, label)
        for one, label in zip(golden, labels, strict=True)
        if (label in one.clusters) == one.never
    ]
