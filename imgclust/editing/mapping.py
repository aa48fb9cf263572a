"""What a log of hand edits makes of predictions: a table from the fitted clusters to those that people see.

A merge or a drop is one look-up; a split asks which part's anchors are nearest to the point, for the images
of that cluster alone. Each row's answer depends on that row alone. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from imgclust.editing.classes import AddClass, RemoveClass
from imgclust.editing.log import Drop, Edit, Merge, Rename, Split, effective, numbers_given
from imgclust.errors import ModelError
from imgclust.types import OTHER, Floats, Ints, Prediction

_CHUNK = 4096  # rows whose distances to anchors are held at once


@dataclasses.dataclass(frozen=True, slots=True)
class _Parts:
    """A split, ready to apply: places are those of `EditMap.numbers`."""

    place: int
    anchors: Floats  # (a, d)
    of_anchor: Ints  # (a,): the place of the part that each stands for


@dataclasses.dataclass(frozen=True, slots=True)
class EditMap:
    """The edits that hold, compiled. Clusters have places: those that were fitted come first, in the order
    of the model's arrays, then the parts of splits; −1 is "other".

    Attributes:
        numbers: int32 (K + 1,): the number of each place, then −1.
        steps: tables int32 (K + 1,) from places to places, and splits, in the order in which they apply.
        names: the names that were given: number → name, None where it was taken away; of classes, too.
    """

    numbers: Ints
    steps: tuple[Ints | _Parts, ...]
    names: Mapping[int, str | None]

    @classmethod
    def of(cls, fitted: Sequence[int], log: Sequence[Edit], dim: int) -> EditMap:
        """Compile a log.

        Args:
            fitted: the numbers of the fitted clusters, in the order of the arrays.
            log: every edit, those that were undone too.
            dim: numbers per point.

        Raises:
            ModelError: an edit names a cluster that is not there, or a number that was used before.
        """
        given = numbers_given(log)
        _require(len({*fitted, *given}) == len(fitted) + len(given), "a number was given twice")
        holding = [edit.change for edit in effective(log)]
        parts = [part.cluster for change in holding if isinstance(change, Split) for part in change.parts]
        numbers = [*fitted, *parts]
        place = {number: i for i, number in enumerate(numbers)}
        alive, classes, names = set(fitted), set[int](), dict[int, str | None]()
        steps: list[Ints | _Parts] = []
        for change in holding:
            match change:
                case Rename(given_names):
                    _require(given_names.keys() <= alive | classes, "it renames a cluster that is not there")
                    names.update(given_names)
                case Merge(into, clusters):
                    _require({into, *clusters} <= alive and into not in clusters, "it merges wrong clusters")
                    alive -= set(clusters)
                    _redirect(steps, len(numbers), [place[c] for c in clusters], place[into])
                case Drop(clusters):
                    _require(set(clusters) <= alive, "it drops a cluster that is not there")
                    alive -= set(clusters)
                    _redirect(steps, len(numbers), [place[c] for c in clusters], OTHER)
                case Split(cluster, found):
                    _require(cluster in alive, "it splits a cluster that is not there")
                    alive = (alive - {cluster}) | {part.cluster for part in found}
                    steps.append(_compiled(change, place, dim))
                case AddClass(own):
                    classes.add(own)
                case RemoveClass(own):
                    _require(own in classes, "it removes a class that is not there")
                    classes.remove(own)
        shown = {number: name for number, name in names.items() if number in alive | classes}
        return cls(np.array([*numbers, OTHER], np.int32), tuple(steps), shown)

    @property
    def alive(self) -> Ints:
        """int32: the places of the clusters that people see: those that some image can belong to."""
        places = np.arange(len(self.numbers) - 1, dtype=np.int32)
        for step in self.steps:
            if isinstance(step, _Parts):
                places = places[places != step.place]
            else:
                places = places[step[places] == places]
        # parts of a later split exist from their split on; before it no step moves them
        return places

    def places(self, fitted: Ints, points: Floats) -> Ints:
        """Places of the clusters that rows belong to.

        Args:
            fitted: int32 (n,): the fitted cluster of each, 0..k-1 in the order of the arrays; −1 is "other".
            points: float32 (n, d): in the UMAP space.
        """
        found = np.asarray(fitted, np.int32)
        for step in self.steps:
            if not isinstance(step, _Parts):
                found = step[found]
                continue
            rows = np.flatnonzero(found == step.place)
            if len(rows):
                found = found.copy()
                found[rows] = step.of_anchor[nearest(points[rows], step.anchors)]
        return found

    def labels(self, fitted: Ints, points: Floats) -> Ints:
        """int32 (n,): as `places`, in the numbers that people see."""
        return self.numbers[self.places(fitted, points)]

    def apply(self, prediction: Prediction) -> Prediction:
        """A prediction in fitted clusters (counted as the arrays do) → in the clusters that people see.

        Candidates that became one cluster add up. What was dropped has probability 0, as "other" has.
        """
        labels = self.labels(prediction.labels, prediction.points)
        dropped = (labels == OTHER) & (prediction.labels != OTHER)
        columns = prediction.candidates.T
        candidates = np.stack([self.labels(column, prediction.points) for column in columns], axis=1)
        candidates, scores = _added_up(candidates, prediction.scores)
        probabilities = np.where(dropped, np.float32(0), prediction.probabilities)
        return dataclasses.replace(
            prediction, labels=labels, probabilities=probabilities, candidates=candidates, scores=scores,
            assigned=prediction.assigned & ~dropped,
        )  # fmt: skip

    def folded(
        self, counts: Sequence[int], fitted: Ints, points: Floats, classes: Ints | None = None, more: int = 0
    ) -> list[int]:
        """Counts of other images by fitted cluster, "other" last → by place, then by class, "other" last.

        What was counted in a cluster that is split now, or of which a class takes some images, is divided as
        its training images are.

        Args:
            fitted, points: of the training images, as `places` takes them.
            classes: int (n,): the class of each training image, 0..more-1; −1: none.
            more: classes.
        """
        k = len(self.numbers) - 1
        classes = np.full(len(fitted), OTHER) if classes is None else classes
        found = np.zeros(k + more + 1)
        for cluster, count in zip([*range(len(counts) - 1), OTHER], counts, strict=True):
            members = np.flatnonzero(fitted == cluster)
            rows = points[members] if len(members) else np.zeros((1, points.shape[1]), np.float32)
            placed = self.places(np.full(len(rows), cluster, np.int32), rows)
            placed = np.where(placed < 0, k + more, placed)
            if len(members):
                placed = np.where(classes[members] >= 0, k + classes[members], placed)
            found += _divided(count, np.bincount(placed, minlength=len(found)))
        return [int(count) for count in found]


def _divided(count: int, shares: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A count in whole parts that add up to it, as near to the shares as such parts can be."""
    exact = count * shares / max(int(shares.sum()), 1)
    parts = np.floor(exact).astype(np.int64)
    parts[np.argsort(parts - exact, kind="stable")[: count - int(parts.sum())]] += 1
    return parts


def nearest(points: Floats, anchors: Floats) -> npt.NDArray[np.int64]:
    """int64 (n,): the nearest anchor of each point; the same for a point whatever the others are."""
    found = np.empty(len(points), np.int64)
    for start in range(0, len(points), _CHUNK):
        part = points[start : start + _CHUNK].astype(np.float64)
        distance = np.zeros((len(part), len(anchors)))
        for axis in range(anchors.shape[1]):  # one axis at a time: sums of a fixed order
            distance += (part[:, axis, None] - anchors[None, :, axis].astype(np.float64)) ** 2
        found[start : start + _CHUNK] = distance.argmin(axis=1)
    return found


def _added_up(candidates: Ints, scores: Floats) -> tuple[Ints, Floats]:
    """Candidates without repetitions and without "other", the best first, padded with −1 and 0."""
    candidates, scores = candidates.copy(), np.where(candidates == OTHER, np.float32(0), scores)
    width = candidates.shape[1]
    for column in range(1, width):
        for before in range(column):
            same = (candidates[:, column] == candidates[:, before]) & (candidates[:, column] != OTHER)
            scores[same, before] = np.minimum(scores[same, before] + scores[same, column], np.float32(1))
            candidates[same, column], scores[same, column] = OTHER, 0
    order = np.argsort(np.where(candidates == OTHER, np.float32(1), -scores), axis=1, kind="stable")
    return np.take_along_axis(candidates, order, 1), np.take_along_axis(scores, order, 1)


def _redirect(steps: list[Ints | _Parts], count: int, places: Sequence[int], target: int) -> None:
    """Add to the last table, or begin one: tables in a row become one."""
    if not steps or isinstance(steps[-1], _Parts):
        steps.append(np.append(np.arange(count), OTHER).astype(np.int32))
    table = steps[-1]
    assert not isinstance(table, _Parts)
    table[np.isin(table, places)] = target


def _compiled(split: Split, place: Mapping[int, int], dim: int) -> _Parts:
    rows: list[Any] = [anchor for part in split.parts for anchor in part.anchors]
    _require(all(len(row) == dim for row in rows), f"its anchors are not points of {dim} numbers")
    owners = [place[part.cluster] for part in split.parts for _ in part.anchors]
    return _Parts(place[split.cluster], np.array(rows, np.float32), np.array(owners, np.int32))


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ModelError(f"the model's record of hand edits is damaged: {what}")
