"""Hand edits of a model: each makes another model, with one more line in its log."""

from __future__ import annotations

import dataclasses
import getpass
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from imgclust.editing.classes import MAX_PICTURES, AddClass, ClassRule, RemoveClass
from imgclust.editing.golden import AddGolden, RemoveGolden
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
    Undo,
    describe,
    effective,
    numbers_given,
)
from imgclust.editing.mapping import EditMap
from imgclust.editing.parsing import MAX_NAME, MAX_WHO, as_half, clean_name
from imgclust.editing.rules import class_rules, classes_of
from imgclust.editing.splitting import split_points
from imgclust.errors import ModelError
from imgclust.model.folder import EXEMPLARS
from imgclust.model.gallery import exemplars
from imgclust.model.parts import UNIT, Cluster
from imgclust.support.machine import now
from imgclust.types import OTHER, Ints

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

    def rename_group(self, names: Mapping[int, str | None]) -> ClusterModel:
        """Give groups of clusters other names: number → name; None takes a name away.

        Raises:
            ModelError: no such group, or a name that is not one line of at most 200 characters.
        """
        there = {group.id for group in self.model.groups}
        for number in names:
            if number not in there:
                raise ModelError(
                    f"the model has no group {number}: {_some(there)}" if there
                    else "the model has no groups: fit it with groups"
                )  # fmt: skip
        return self._made(RenameGroup({int(number): clean_name(name) for number, name in names.items()}))

    def merge(self, into: int, *others: int) -> ClusterModel:
        """Merge clusters into one, which keeps its number and its name; the others are retired.

        Raises:
            ModelError: no such cluster, or a cluster with itself.
        """
        self._check_clusters([into, *others])
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
        self._check_clusters([cluster])
        own = self.model.labels_ == cluster  # without those that a class takes
        points = self.model.arrays["points"][own]
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
        self._check_clusters(clusters)
        if not clusters or len(set(clusters)) == sum(not c.is_class for c in self.model.clusters):
            raise ModelError(
                "drop at least one cluster and keep at least one: a model without clusters tags nothing"
            )
        return self._made(Drop(tuple(map(int, dict.fromkeys(clusters)))))

    def add_class(
        self, name: str, rule: ClassRule, pictures: Mapping[str, bytes] | None = None
    ) -> ClusterModel:
        """Add a class: images that its rule lets in belong to it, whatever their cluster. It gets a number
        that was never used. An image of several classes belongs to the one that was added first.

        Args:
            rule: of `imgclust.editing.thresholds`.
            pictures: of examples, the most typical first: name → WebP, at most 128 px, as
                `imgclust.model.gallery.thumbnail_of` makes it. The first 24 are kept, to be shown.

        Raises:
            ModelError: no name, one that a class has, or vectors of another space.
        """
        given = clean_name(name)
        taken = {one.name: one.id for one in self.model.clusters if one.is_class}
        if given is None or given in taken:
            known = f"class {taken[given]} has it" if given else "it is empty"
            raise ModelError(f"a class needs a name of its own, got {name[:60]!a}: {known}")
        number = self.model.next_number
        kept = {
            picture_id(number, place, image): webp
            for place, (image, webp) in enumerate([*(pictures or {}).items()][:MAX_PICTURES])
        }
        made = self._made(AddClass(number, given, rule, tuple(kept)))
        return dataclasses.replace(made, thumbnails={**made.thumbnails, **kept}) if kept else made

    def remove_class(self, class_: int | str) -> ClusterModel:
        """Retire a class, by its number or its name: its images belong to the clusters again.

        Raises:
            ModelError: there is no such class.
        """
        return self._made(RemoveClass(self.class_number(class_)))

    def class_number(self, class_: int | str) -> int:
        """The number of a class, by its number or its name.

        Raises:
            ModelError: there is no such class.
        """
        classes = {one.id: one.name for one in self.model.clusters if one.is_class}
        for number, name in classes.items():
            if class_ in (number, name, str(number)):
                return number
        listed = ", ".join(f"{number} {name!a}" for number, name in classes.items()) or "none"
        raise ModelError(f"the model has no class {class_!a:.80}: its classes are {listed}")

    def add_golden(
        self, image: str, embedding: np.ndarray, clusters: Sequence[int], *, never: bool = False
    ) -> ClusterModel:
        """Say where an image must be, in every model of the taxonomy; said again, it replaces what was said.

        Args:
            image: its id.
            embedding: float (dim,), of length 1.
            clusters: clusters and classes, one of which it must be in; −1 is "other".
            never: it must be in none of them instead.

        Raises:
            ModelError: no such cluster, an id that is not one line, or an embedding of another width.
        """
        self._check([one for one in clusters if one != OTHER])
        vector = np.asarray(embedding, np.float32)
        if not clusters or vector.shape != (self.model.dim,) or abs(np.linalg.norm(vector) - 1) > UNIT:
            raise ModelError(
                f"a golden image takes clusters and an embedding of {self.model.dim} numbers and length 1"
            )
        change = AddGolden(image, as_half(vector), tuple(map(int, clusters)), never)
        try:
            AddGolden.from_dict(change.to_dict())
        except ValueError:
            raise ModelError(f"the id of a golden image must be one line, is {image[:80]!a}") from None
        return self._made(change)

    def keep_typical(self, *clusters: int, count: int = 3) -> ClusterModel:
        """Make typical images of clusters golden: later edits are followed, later fits are held to them.

        Args:
            count: images of each at most; only those that the model itself puts there.

        Raises:
            ModelError: no such cluster.
        """
        self._check_clusters(clusters)
        model, rows = self.model, _rows_of_typical(self.model)
        wanted = [one for one in model.clusters if one.id in clusters]
        pairs = [(one.id, image) for one in wanted for image in one.exemplars if image in rows]
        vectors = model.arrays["embeddings"][[rows[image] for _, image in pairs]].astype(np.float32)
        labels = model.predict(vectors).labels.tolist() if pairs else []
        taken = Counter[int]()
        for (number, image), vector, label in zip(pairs, vectors, labels, strict=True):
            if label == number and taken[number] < count:
                taken[number] += 1
                model = model.edit(self.who).add_golden(image, vector, [number])
        return model

    def remove_golden(self, image: str) -> ClusterModel:
        """Take back all that was said of a golden image.

        Raises:
            ModelError: there is none of this id.
        """
        known = [one.image for one in golden_images(self.model.edits)]
        if image not in known:
            raise ModelError(f"{image[:80]!a} is not a golden image of model {self.model.version}")
        return self._made(RemoveGolden(image))

    def undo(self) -> ClusterModel:
        """Take back the last edit that still holds.

        Raises:
            ModelError: there is none.
        """
        if not effective(self.model.edits):
            raise ModelError(f"there is nothing to undo: model {self.model.version} has no edit in effect")
        return self._made(Undo())

    def _check(self, numbers: Mapping[int, str | None] | Sequence[int]) -> None:
        there = {cluster.id for cluster in self.model.clusters}
        for number in numbers:
            if number not in there:
                raise ModelError(f"the model has no cluster {number}{self._fate(number)}: {_some(there)}")

    def _check_clusters(self, numbers: Sequence[int]) -> None:
        self._check(numbers)
        for cluster in self.model.clusters:
            if cluster.is_class and cluster.id in numbers:
                raise ModelError(
                    f"{cluster.id} is the class {cluster.name!a}, not a cluster: it can be renamed, or "
                    "removed with `imgclust class MODEL remove`"
                )

    def _fate(self, number: int) -> str:
        """What became of a cluster that was edited away."""
        for edit in reversed(effective(self.model.edits)):
            change = edit.change
            gone = change.cluster if isinstance(change, Split) else None
            gone = change.number if isinstance(change, RemoveClass) else gone
            if number == gone or (isinstance(change, Merge | Drop) and number in change.clusters):
                return f" ({describe(change)})"
        return ""

    def _made(self, change: Change) -> ClusterModel:
        edit = Edit(change, self.who, now(), self.model.version)
        return with_edits(self.model, (*self.model.edits, edit))


def picture_id(number: int, place: int, image: str) -> str:
    """What the picture of an example is called: unlike the ids of images, which may have the same names."""
    name = clean_name(image) if len(image) < MAX_NAME and image.isprintable() else None
    return f"class {number}: {name or f'example {place}'}"


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
        used=max(model.next_number, 1 + max(numbers_given(log), default=-1)),
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


def of_clusters_alone(model: ClusterModel) -> ClusterModel:
    """The model as if it had neither classes nor golden images, for what concerns clusters alone."""
    others = AddClass | RemoveClass | AddGolden | RemoveGolden
    if not any(isinstance(edit.change, others) for edit in model.edits):
        return model
    log: list[Edit] = []
    classes = {change.number for edit in model.edits if isinstance(change := edit.change, AddClass)}
    for edit in effective(model.edits):
        change = edit.change
        if isinstance(change, Rename):
            names = {number: name for number, name in change.names.items() if number not in classes}
            log += [dataclasses.replace(edit, change=Rename(names))] if names else []
        elif not isinstance(change, others):
            log.append(edit)
    return with_edits(model, log)


def _clusters(model: ClusterModel, edits: EditMap, log: Sequence[Edit]) -> tuple[Cluster, ...]:
    """The clusters that people see, then the classes: sizes counted, names as given, typical images of what
    they hold."""
    fitted, arrays = model.fitted_clusters, model.arrays
    labels = edits.labels(arrays["labels"], arrays["points"])
    rules, classes = class_rules(log, model.dim), classes_of(log)
    if rules is not None:
        labels = rules.relabel(labels, arrays["embeddings"])
    sizes = Counter(labels.tolist())
    typical = _typical(model, labels) | {one.number: list(one.pictures) for one in classes if one.pictures}
    names = {cluster.id: cluster.name for cluster in fitted} | {one.number: one.name for one in classes}
    names |= edits.names
    stable = {(cluster.id, cluster.size): cluster.stability for cluster in fitted}  # of what was left alone
    groups = _groups(fitted, log)
    found = []
    for number in [*edits.numbers[edits.alive].tolist(), *(one.number for one in classes)]:
        known = number, names.get(number), sizes[number], tuple(typical.get(number, ())[:EXEMPLARS])
        is_class = number in {one.number for one in classes}
        stability, group = stable.get((number, sizes[number])), groups.get(number)
        found.append(Cluster(*known, stability, group, is_class))
    return tuple(found)


def _typical(model: ClusterModel, shown: Ints) -> dict[int, list[str]]:
    """Number → ids of typical images: those of the fitted clusters, in turns where several became one.

    Their order is that of the fit, so that the pictures that are stored are the ones that are shown.
    """
    labels, arrays = model.arrays["labels"], model.arrays
    rows = exemplars(arrays["embeddings"], labels, arrays["probabilities"])
    found: dict[int, list[tuple[int, str]]] = {}
    for cluster, typical in zip(model.fitted_clusters, rows, strict=True):
        ranks: dict[int, int] = {}
        for row, image in zip(typical.tolist(), cluster.exemplars, strict=False):
            number = int(shown[row])
            found.setdefault(number, []).append((ranks.setdefault(number, 0), image))
            ranks[number] += 1
    return {
        number: [image for _, image in sorted(ids, key=lambda pair: pair[0])] for number, ids in found.items()
    }


def _rows_of_typical(model: ClusterModel) -> dict[str, int]:
    """Image id → training row, of the typical images of the fitted clusters."""
    arrays = model.arrays
    rows = exemplars(arrays["embeddings"], arrays["labels"], arrays["probabilities"])
    pairs = zip(model.fitted_clusters, rows, strict=True)
    return {
        image: int(row)
        for cluster, typical in pairs
        for image, row in zip(cluster.exemplars, typical, strict=False)
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown"


def _some(numbers: set[int]) -> str:
    listed = ", ".join(map(str, sorted(numbers)[:20]))
    return f"it has {listed}{' …' if len(numbers) > 20 else ''}"
