"""A fit and the model before it → the fit in the numbers of the taxonomy that it continues."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from imgclust.editing.log import Edit, RenameGroup, effective
from imgclust.errors import EmbeddingsError, FitError
from imgclust.model.folder import Array
from imgclust.model.meaning import Births
from imgclust.model.model import ClusterModel
from imgclust.model.taxonomy import COMPARED, Continuation, Shared, contingency, continued
from imgclust.naming.clusters import members_of
from imgclust.naming.fitting import FitNamer
from imgclust.naming.namers import names_by_people
from imgclust.predictor.batches import predict_batches
from imgclust.training.before import Before
from imgclust.training.dedupe import NEAR, Rows
from imgclust.training.neighbours import nearest_rows
from imgclust.training.novel_kinds import NEIGHBOURS, kinds_not_seen
from imgclust.training.parameters import Count
from imgclust.types import OTHER, EncoderIdentity, Floats, Ints, Predictor


def check_space(previous: ClusterModel, rows: Floats, encoder: EncoderIdentity | None) -> None:
    """Refuse, before hours of work, embeddings that the previous model can say nothing of.

    Raises:
        FitError: they are of another encoder or width; both are named.
    """
    otherwise = "or fit without a previous model, which starts another taxonomy"
    try:
        previous.check_encoder(encoder)
    except EmbeddingsError as error:
        raise FitError(f"model {previous.version} cannot be continued: {error}, {otherwise}") from None
    if rows.shape[1] != previous.dim:
        raise FitError(
            f"model {previous.version} cannot be continued: it takes embeddings of {previous.dim} numbers, "
            f"these have {rows.shape[1]}: give embeddings of its encoder, {otherwise}"
        )


def as_before(
    previous: ClusterModel, parameters: Mapping[str, Any], groups: Count | bool | None
) -> dict[str, Any]:
    """The parameters that are not the recipe's in a fit that continues this model.

    Groups as it has them. No consensus: starting places and graph are steady already, and what several fits
    agree on leaves less to "other".
    """
    levels = {"levels": 2} if groups is None and previous.groups else {}
    return {"consensus": 0, **levels, **parameters}


def predicted_before(
    previous: ClusterModel, rows: Floats, progress: Callable[[float], None] | None = None
) -> Before:
    """What the previous model says of the training images of the next one.

    What is new to it belongs to no cluster, even where it was put into one.
    """

    def report(done: float) -> None:
        if progress:
            progress(done / 2)

    found = predict_batches(
        previous.predictor, rows, progress=lambda done: report(done / len(rows))
    ).unassigned()
    near, distances = nearest_rows(rows, 1 + NEIGHBOURS, "cosine", lambda done: report(1 + done))
    old = len(previous.arrays["labels"])
    new = kinds_not_seen(found.similarities, near[:, 1:], 1 - distances[:, 1:], old)
    labels = np.where(found.novel | new, np.int32(OTHER), found.labels)
    return Before(labels, previous.level[labels], found.points, new, found.similarities >= NEAR)


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What two fits say of each other's training images; clusters as the arrays of either count them.

    Attributes:
        previous, new: int32 pairs; labels of a sample of the previous one's images, and of the new one's.
    """

    previous: tuple[Ints, Ints]
    new: tuple[Ints, Ints]

    def shared(self, clusters: tuple[int, int]) -> Shared:
        """How many images each pair of clusters shares; `clusters`: how many either has."""
        (one, two), (other_one, other_two) = self.previous, self.new
        return contingency(one, other_one, clusters), contingency(two, other_two, clusters)

    def of_groups(self, previous: Ints, new: Ints) -> Asked:
        """The same of the groups above the clusters.

        Args:
            previous, new: int32 (k + 1,); the group of each cluster, and -1 for "other".
        """
        one, two = (previous[labels] for labels in self.previous)
        other_one, other_two = (new[labels] for labels in self.new)
        return Asked((one, two), (other_one, other_two))


def ask_both(
    previous: ClusterModel,
    arrays: Mapping[str, Array],
    predictor: Predictor,
    progress: Callable[[float], None] | None = None,
) -> Asked:
    """Ask each fit about the other's training images.

    One alone would be deceived: a model puts a kind of picture that it never saw into a cluster of its own,
    and where that cluster's own pictures are gone, nothing contradicts.

    Args:
        arrays, predictor: of the new fit; clusters are numbered 0..k-1.
        progress: called with the share that is done.
    """
    then, now = _sample(previous.arrays), _sample(arrays)
    total, begun = len(then) + len(now), 0

    def report(done: int) -> None:
        if progress:
            progress((begun + done) / total)

    by_new = _labels(predictor, previous.arrays["embeddings"][then], report)
    begun = len(then)
    by_previous = _labels(previous.predictor, arrays["embeddings"][now], report)
    return Asked((previous.arrays["labels"][then], by_previous), (by_new, arrays["labels"][now]))


def compare(previous: ClusterModel, arrays: Mapping[str, Array], asked: Asked) -> Continuation:
    """What became of the previous model's clusters.

    Args:
        arrays: of the new fit.
    """
    sizes = np.bincount(arrays["labels"][arrays["labels"] >= 0], minlength=len(arrays["cluster_nodes"]))
    clusters = len(previous.fitted_clusters), len(sizes)
    return continued(
        asked.shared(clusters),
        sizes.tolist(),
        previous.fitted_clusters,
        following=previous.next_number,
        version=previous.version,
        meaning=Births.of(previous.arrays).meanings(arrays["embeddings"], arrays["labels"], len(sizes)),
    )


def births(previous: ClusterModel, found: Continuation, arrays: Mapping[str, Array]) -> Births:
    """What each number of the fit was first given to; what is new is given to its own images."""
    place = {cluster.id: row for row, cluster in enumerate(previous.fitted_clusters)}
    kept = [OTHER if c.overlap is None else place[c.number] for c in found.clusters]
    own = Births.now(arrays["embeddings"], arrays["labels"])
    return own.kept(Births.of(previous.arrays), np.array(kept, np.int32))


def kept_names(model: ClusterModel, numbers: Iterable[int]) -> list[str | None]:
    """The names that clusters of these numbers keep, but for what people called them: edits carry that."""
    fitted, by_people = {c.id: c.name for c in model.fitted_clusters}, names_by_people(model)
    return [
        fitted.get(number) if number in by_people else model.name(number) or fitted.get(number)
        for number in numbers
    ]


def names_by_hand(model: ClusterModel) -> set[str]:
    """What people call clusters and groups: no other gets such a name."""
    groups = [edit.change for edit in effective(model.edits) if isinstance(edit.change, RenameGroup)]
    given = [*names_by_people(model).values(), *(name for one in groups for name in one.names.values())]
    return {name for name in given if name}


def _sample(arrays: Mapping[str, Array]) -> Rows:
    rows = np.random.default_rng(0).permutation(len(arrays["labels"]))
    return np.sort(rows[:COMPARED])


def _labels(predictor: Predictor, rows: Array, report: Callable[[int], None]) -> Ints:
    """int32: the predicted clusters; "other", too, what is unlike all that the model knows."""
    found = predict_batches(predictor, rows, progress=report).unassigned()
    return np.where(found.novel, np.int32(OTHER), found.labels)


@dataclasses.dataclass(frozen=True, slots=True)
class Numbering:
    """The numbers of a fit's clusters in their taxonomy.

    Attributes:
        numbers: of the clusters, in the order of the fit.
        names: that they have already.
        continues: the taxonomy; None: the model starts one.
        used: how many numbers the taxonomy has used; None: no others than these.
        edits: hand edits of the previous model, made again; see `imgclust.training.carrying`.
    """

    numbers: Sequence[int]
    names: Sequence[str | None]
    continues: str | None = None
    used: int | None = None
    edits: tuple[Edit, ...] = ()

    @classmethod
    def fresh(cls, clusters: int) -> Numbering:
        """Of a fit that starts a taxonomy."""
        return cls(range(clusters), [None] * clusters)

    @classmethod
    def continuing(cls, previous: ClusterModel, found: Continuation) -> Numbering:
        """Of a fit that continues one: clusters that are kept have their names, too; see `kept_names`."""
        names = kept_names(previous, found.numbers)
        used = max(previous.next_number, 1 + max(found.numbers))
        return cls(found.numbers, names, previous.taxonomy, used)

    def named(
        self, namer: FitNamer | None, arrays: Mapping[str, Array], by_hand: Collection[str] = ()
    ) -> Sequence[str | None]:
        """The clusters' names: those that they have, as far as they hold, and new ones.

        Args:
            arrays: of the fit.
            by_hand: names that people gave.
        """
        if namer is None:
            return self.names
        members = members_of(arrays["labels"], range(len(self.numbers)))
        return namer.names(arrays["embeddings"], members, known=self.names, taken=by_hand)

    @property
    def table(self) -> Ints:
        """int32 (k + 1,): the numbers, then that of "other"."""
        return np.array([*self.numbers, OTHER], np.int32)

    def of(self, labels: Ints) -> Ints:
        """int32: the numbers of labels as the fit counts them."""
        return self.table[labels]
