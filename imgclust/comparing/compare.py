"""What became of each cluster of a model in another one, and which images move. Pure, but for `compare`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgclust.comparing.images import PredictedImages, predict_images
from imgclust.errors import ImgclustError
from imgclust.model.taxonomy import MOST, WORTH_A_WORD, Counts, contingency, match
from imgclust.types import OTHER, Ints

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.model.parts import Cluster

SHOWN = 50  # images that move, for people to look at
KEPT, SPLIT, MERGED, GONE, NEW, EMPTY = "kept", "split into", "merged into", "gone", "new", "no images"
NOWHERE = -2  # where images of a cluster that is not kept would stay: any label moves them


@dataclasses.dataclass(frozen=True, slots=True)
class Flow:
    """The images of a cluster that one cluster of the other model holds; -1 is "other"."""

    cluster: int
    images: int
    share: float


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterFate:
    """What became of a cluster, or where a new one comes from.

    Attributes:
        number, name: in its own model.
        images: of those compared, in it.
        fate: `KEPT`, `SPLIT`, `MERGED` or `GONE` for a cluster of the first model, `NEW` for one of the
            second; `EMPTY`: none of the images is in it, so nothing can be said.
        same: the number of the cluster of the other model that it is; None: it is none of them.
        flows: where its images are in the other model, the largest part first; shares sum to 1.
    """

    number: int
    name: str | None
    images: int
    fate: str
    same: int | None
    flows: tuple[Flow, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class MovedImage:
    """An image with its clusters in both models; -1 is "other"."""

    id: str
    before: int
    after: int


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same images.

    Attributes:
        by_number: clusters of the same number are the same, as both models have one taxonomy; False: clusters
            count as the same if they share more than half of the images that are in either.
        images, moved: how many were compared, and are in another cluster than the one that theirs is.
        other: how many are in no cluster, before and after.
        before: the fates of the first model's clusters, in its order.
        new: clusters of the second model that are none of the first's.
        names: of the clusters of either model, by number.
        examples: up to `SHOWN` images that move: some of each move, of frequent ones more.
    """

    by_number: bool
    images: int
    moved: int
    other: tuple[int, int]
    before: tuple[ClusterFate, ...]
    new: tuple[ClusterFate, ...]
    names: tuple[dict[int, str | None], dict[int, str | None]]
    examples: tuple[MovedImage, ...]

    @property
    def moved_share(self) -> float:
        """0..1."""
        return self.moved / self.images


def compare(
    before: ClusterModel,
    after: ClusterModel,
    folder: Path | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> Comparison:
    """Compare two models on an embeddings folder, or on the training images of both.

    Args:
        advance: called with numbers of images as they are predicted.

    Raises:
        ModelError: models of different encoders.
        EmbeddingsError: the folder is unreadable, or of another encoder.
        ImgclustError: a model does not know the names of its training images.
    """
    predicted = predict_images([before, after], folder, advance=advance)
    same = before.taxonomy == after.taxonomy
    return compare_labels(predicted, before.clusters, after.clusters, by_number=same)


def compare_labels(
    predicted: PredictedImages, before: Sequence[Cluster], after: Sequence[Cluster], *, by_number: bool
) -> Comparison:
    """Compare what two models say of the same images.

    Args:
        predicted: with the labels of both.
        before, after: the clusters of either.
        by_number: whether clusters of the same number are the same.

    Raises:
        ImgclustError: there are no images.
    """
    if not len(predicted.ids):
        raise ImgclustError("there is no image to compare the models on")
    numbers = [cluster.id for cluster in before], [cluster.id for cluster in after]
    old, new = (_places(labels, known) for labels, known in zip(predicted.labels, numbers, strict=True))
    shared = contingency(old, new, (len(before), len(after)))
    matched = _same_numbers(*numbers) if by_number else match((shared, shared))
    stays = _stays(matched, len(before))
    rows = np.flatnonzero(stays[old] != new)
    return Comparison(
        by_number,
        images=len(predicted.ids),
        moved=len(rows),
        other=(int(shared[-1].sum()), int(shared[:, -1].sum())),
        before=tuple(
            _fate_before(cluster, row, numbers[1], int(place))
            for cluster, row, place in zip(before, shared[:-1], stays[:-1], strict=True)
        ),
        new=tuple(
            _fate_new(cluster, shared[:, place], numbers[0])
            for place, cluster in enumerate(after)
            if matched[place] < 0
        ),
        names=({c.id: c.name for c in before}, {c.id: c.name for c in after}),
        examples=_examples(predicted, rows),
    )


def _places(labels: Ints, numbers: Sequence[int]) -> Ints:
    """Numbers of clusters → places in the list of clusters; -1 stays."""
    place = {number: i for i, number in enumerate(numbers)}
    values, inverse = np.unique(labels, return_inverse=True)
    places = np.array([OTHER if v == OTHER else place[v] for v in values.tolist()], np.int32)
    return places[inverse]


def _same_numbers(before: Sequence[int], after: Sequence[int]) -> Ints:
    """As `match` gives it."""
    place = {number: i for i, number in enumerate(before)}
    return np.array([place.get(number, OTHER) for number in after], np.int32)


def _stays(matched: Ints, count: int) -> Ints:
    """int32 (count + 1,): the label after of an image that does not move; for "other", which is last, -1."""
    stays = np.full(count + 1, NOWHERE, np.int32)
    stays[-1] = OTHER
    after = np.flatnonzero(matched >= 0)
    stays[matched[after]] = after
    return stays


def _flows(counts: Counts, numbers: Sequence[int]) -> tuple[Flow, ...]:
    total, named = int(counts.sum()), [*numbers, OTHER]
    order = np.argsort(-counts, kind="stable").tolist()
    return tuple(Flow(named[i], int(counts[i]), int(counts[i]) / total) for i in order if counts[i])


def _fate_before(cluster: Cluster, counts: Counts, numbers: Sequence[int], stays: int) -> ClusterFate:
    flows = _flows(counts, numbers)
    large = [flow for flow in flows if flow.cluster != OTHER and flow.share >= WORTH_A_WORD]
    if stays >= 0:
        fate = KEPT
    elif not flows:
        fate = EMPTY
    elif len(large) > 1:
        fate = SPLIT
    else:
        fate = MERGED if large and large[0].share > MOST else GONE
    same = numbers[stays] if stays >= 0 else None
    return ClusterFate(cluster.id, cluster.name, int(counts.sum()), fate, same, flows)


def _fate_new(cluster: Cluster, counts: Counts, numbers: Sequence[int]) -> ClusterFate:
    flows = _flows(counts, numbers)
    fate = NEW if flows else EMPTY
    return ClusterFate(cluster.id, cluster.name, int(counts.sum()), fate, None, flows)


def _examples(predicted: PredictedImages, rows: np.ndarray) -> tuple[MovedImage, ...]:
    """One image of each move in turn, the most frequent move first."""
    old, new = predicted.labels
    moves = (old[rows].astype(np.int64) << 32) + new[rows]
    _, first, which, counts = np.unique(moves, return_index=True, return_inverse=True, return_counts=True)
    frequent = np.lexsort((first, -counts))[:SHOWN].tolist()  # of equal ones the earlier
    turns = chain.from_iterable(zip_longest(*(rows[which == move][:SHOWN].tolist() for move in frequent)))
    chosen = islice((row for row in turns if row is not None), SHOWN)
    return tuple(MovedImage(str(predicted.ids[row]), int(old[row]), int(new[row])) for row in chosen)
