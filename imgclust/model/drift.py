"""How far what a model says of a stream has moved from what it said of its held-out images. Pure.

A frozen model ages: content changes, and its clusters do not. Three things show it before anybody looks at
pictures: clusters that grow and shrink, memberships that get weaker, and images that lie farther from all
training images. Each is a histogram, and the population stability index says how far two histograms are
apart: Σ (a − e) ln(a / e) over the shares of their bins. By custom below 0.1 is steady and above 0.25 is
drift; but small samples differ by chance, which `by_chance` measures and `judge` allows for.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from imgclust.errors import ModelError
from imgclust.types import OTHER, Floats, Ints, Prediction

Counts = npt.NDArray[np.int64]


class Summable(Protocol):
    """What adds up."""

    def __add__(self, more: Self, /) -> Self: ...


SumT = TypeVar("SumT", bound=Summable)
Verdict = Literal["steady", "shifting", "drifted"]

PARTS = ("clusters", "probabilities", "similarities")
STEADY, DRIFTED = 0.1, 0.25  # customary limits of the index
BINS = 10
DIGITS = 6  # of a similarity: as rows of `imgclust predict` have it
LEAST = 5  # images of the reference in a bin of an ordered histogram
PRIOR = 0.5  # pseudo-count of each bin (Jeffreys), so that an empty one is no infinity
MAX_CLUSTERS = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class DriftCounts:
    """What a model said of some images, counted.

    Attributes:
        clusters: int64 (k + 1,): images in each cluster, and in none ("other") last.
        probabilities: int64 (10,): of the images in a cluster, by tenths of the probability.
        similarities: int64 (b,): by the similarity to the nearest training image, all zero where it is not
            known (tags do not carry it).
        novel: how many are novel.
    """

    clusters: Counts
    probabilities: Counts
    similarities: Counts
    novel: int

    @property
    def images(self) -> int:
        return int(self.clusters.sum())

    @property
    def other(self) -> float:
        """The share of "other"; NaN of no images."""
        return int(self.clusters[-1]) / self.images if self.images else math.nan

    @property
    def novelty(self) -> float:
        """The share of novel images; NaN of no images."""
        return self.novel / self.images if self.images else math.nan

    def __add__(self, more: DriftCounts) -> DriftCounts:
        return DriftCounts(
            self.clusters + more.clusters,
            self.probabilities + more.probabilities,
            self.similarities + more.similarities,
            self.novel + more.novel,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """What a model said of images that it was not fitted on, and the bins to count others in.

    Attributes:
        edges: float64 (b − 1,), ascending: where one bin of similarities ends and the next begins.
        numbers: int32 (k,): the clusters that the tally counts, in its order.
        classes: those of them that people defined. Their images say nothing of the strength of memberships,
            so they are not counted in the probabilities.
    """

    tally: DriftCounts
    edges: npt.NDArray[np.float64]
    numbers: Ints
    classes: tuple[int, ...] = ()

    @classmethod
    def of(cls, prediction: Prediction, clusters: Sequence[int] | Ints) -> Reference | None:
        """From predictions of held-out images, None where there are none; `clusters`: their numbers."""
        if not len(prediction):
            return None
        deciles = np.quantile(prediction.similarities.astype(np.float64), np.arange(1, BINS) / BINS)
        edges = np.unique(np.round(deciles, DIGITS))
        empty = cls(_empty(len(clusters), len(edges) + 1), edges, np.asarray(clusters, np.int32))
        return dataclasses.replace(empty, tally=empty.count(prediction))

    @classmethod
    def of_model(cls, model: Any) -> Reference | None:
        """What a model keeps; None for a model without held-out images, or from before they were
        kept.

        Raises:
            ModelError: it is damaged.
        """
        kept = getattr(model, "reference", None)
        if kept is None:
            return None
        reference = cls.from_dict(kept, [c.id for c in model.fitted_clusters])
        if model.edit_map is None:
            return reference
        edits, arrays, rules = model.edit_map, model.arrays, model.class_rules
        classes = np.empty(0, np.int32) if rules is None else rules.numbers
        counts = edits.folded(
            reference.tally.clusters.tolist(),
            arrays["labels"],
            arrays["points"],
            model.training_classes,
            len(classes),
        )
        k, shown = len(edits.numbers) - 1, edits.alive
        kept = [*(counts[place] for place in shown), *counts[k:]]
        tally = dataclasses.replace(reference.tally, clusters=np.array(kept, np.int64))
        return cls(
            tally, reference.edges, np.concatenate([edits.numbers[shown], classes]), tuple(classes.tolist())
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types; `from_dict` reads it."""
        return {
            "clusters": self.tally.clusters.tolist(),
            "probabilities": self.tally.probabilities.tolist(),
            "similarities": self.tally.similarities.tolist(),
            "edges": self.edges.tolist(),
            "novel": self.tally.novel,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], clusters: Sequence[int]) -> Reference:
        """Raises ModelError for what `to_dict` did not write of a model with so many clusters.

        Args:
            clusters: the numbers of the model's clusters, in its order.
        """
        try:
            edges = np.asarray(data["edges"], np.float64)
            counts = [np.asarray(data[name], np.int64) for name in PARTS]
            tally = DriftCounts(counts[0], counts[1], counts[2], int(data["novel"]))
            sizes = (len(clusters) + 1, BINS, len(edges) + 1)
            sound = [array.shape for array in counts] == [(size,) for size in sizes]
            sound = sound and bool(np.isfinite(edges).all() and (np.diff(edges) > 0).all())
            sound = sound and all(int(array.min()) >= 0 for array in counts) and tally.novel >= 0
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(
                f"the model's reference of held-out images is damaged ({type(error).__name__})"
            ) from None
        if not sound or tally.novel > tally.images or tally.images > 2**53:
            raise ModelError("the model's reference of held-out images is damaged: fit again")
        return cls(tally, edges, np.asarray(clusters, np.int32))

    def with_copies(
        self, labels: Ints, probabilities: Floats, similarities: Floats, images: int
    ) -> Reference:
        """With copies of known images beside the held-out ones, as a stream brings them.

        Held-out images are all different. Judged by them alone, a stream that only repeats itself, as it did
        before the fit, would seem to drift: copies have a similarity near 1, and known clusters.

        Args:
            labels, probabilities, similarities: of the copies that there were.
            images: how many to count; the copies are drawn from as often as it takes.
        """
        if not len(labels) or not images:
            return self
        drawn = np.random.default_rng(0).choice(len(labels), images, replace=images > len(labels))
        more = self.count_tags(labels[drawn], probabilities[drawn], 0, similarities[drawn])
        return dataclasses.replace(self, tally=self.tally + more)

    def count(self, prediction: Prediction) -> DriftCounts:
        """Count predictions of the same model."""
        return self.count_tags(
            prediction.labels,
            prediction.probabilities,
            int(np.count_nonzero(prediction.novel)),
            prediction.similarities,
        )

    def count_tags(
        self, labels: Ints, probabilities: Floats, novel: int, similarities: Floats | None = None
    ) -> DriftCounts:
        """Count tags, of which the similarities may be unknown.

        Raises:
            ValueError: a cluster that the model does not have.
        """
        clusters, k = np.asarray(labels, np.int64), len(self.numbers)
        inside = np.asarray(probabilities, np.float64)[~np.isin(clusters, [OTHER, *self.classes])]
        tenths = np.clip(np.nan_to_num(inside) * BINS, 0, BINS - 1).astype(np.int64)
        near = np.zeros(len(self.edges) + 1, np.int64)
        if similarities is not None:
            told = np.round(np.asarray(similarities, np.float64), DIGITS)
            near = np.bincount(np.searchsorted(self.edges, told, side="right"), minlength=len(near))
        return DriftCounts(
            np.bincount(self._bins(clusters), minlength=k + 1),
            np.bincount(tenths, minlength=BINS),
            near,
            novel,
        )

    def _bins(self, labels: Counts) -> Counts:
        """Where the tally counts each label."""
        numbers = np.append(self.numbers, OTHER)
        order: Counts = np.argsort(numbers, kind="stable")
        known = numbers[order]
        place = np.searchsorted(known, labels).clip(max=len(known) - 1)
        if (strange := np.flatnonzero(known[place] != labels)).size:
            raise ValueError(f"the model has no cluster {labels[strange[0]]}")
        found: Counts = order[place]
        return found

    @property
    def nothing(self) -> DriftCounts:
        return _empty(len(self.tally.clusters) - 1, len(self.edges) + 1)


def _empty(clusters: int, bins: int) -> DriftCounts:
    return DriftCounts(
        np.zeros(clusters + 1, np.int64), np.zeros(BINS, np.int64), np.zeros(bins, np.int64), 0
    )


def stability_index(expected: Counts, actual: Counts) -> float:
    """The population stability index of two histograms over the same bins.

    0 for equal shares, never negative, symmetric; NaN if either is empty. Every bin gets half a count more,
    so that one which is empty in one of them counts much, but not infinitely much.
    """
    if not expected.sum() or not actual.sum():
        return math.nan
    e, a = ((counts + PRIOR) / (counts.sum() + PRIOR * len(counts)) for counts in (expected, actual))
    return float(((a - e) * np.log(a / e)).sum())


def by_chance(expected: Counts, actual: Counts) -> float:
    """The index that two samples of one distribution stay below 99 times of 100.

    With n and m images in b bins the index is near (1/n + 1/m) χ² with b − 1 degrees of freedom (Yurdakul,
    "Statistical properties of population stability index", 2018); the quantile of χ² by Wilson and Hilferty.
    Bins that are empty in both say nothing and do not count.
    """
    n, m = int(expected.sum()), int(actual.sum())
    free = int(np.count_nonzero(expected + actual)) - 1
    if not n or not m:
        return math.nan
    if free < 1:
        return 0.0
    spread = 2 / (9 * free)
    chi_square = free * (1 - spread + 2.3263 * math.sqrt(spread)) ** 3
    return (1 / n + 1 / m) * chi_square


def judge(index: float, chance: float) -> Verdict:
    """What an index means; one that chance may have made is steady, whatever its size. NaN is steady."""
    if index > max(DRIFTED, chance):
        return "drifted"
    return "shifting" if index > max(STEADY, chance) else "steady"


@dataclasses.dataclass(frozen=True, slots=True)
class Drift:
    """How a tally compares with a reference.

    Attributes:
        index: part → its stability index; NaN where nothing is known.
        chance: part → what chance alone makes of it at most.
        numbers: int32 (k,): the clusters that both count, in their order.
    """

    reference: DriftCounts
    tally: DriftCounts
    index: Mapping[str, float]
    chance: Mapping[str, float]
    numbers: Ints

    def verdict(self, part: str) -> Verdict:
        return judge(self.index[part], self.chance[part])

    def moved(self) -> list[tuple[int, float, float]]:
        """(cluster, share in the reference, share now), those first that make most of the index."""
        e, a = (counts.clusters / max(counts.images, 1) for counts in (self.reference, self.tally))
        smooth = 1 / max(self.reference.images, self.tally.images, 1)
        weight = (a - e) * np.log((a + smooth) / (e + smooth))
        cluster = [*self.numbers.tolist(), OTHER]
        order = np.argsort(-weight, kind="stable").tolist()
        return [(cluster[i], float(e[i]), float(a[i])) for i in order if e[i] or a[i]]


def merged(expected: Counts, actual: Counts) -> tuple[Counts, Counts]:
    """Neighbouring bins put together, until each holds LEAST images of `expected`.

    Of a thinner bin the index, with its logarithm, makes more than `by_chance`, which goes by χ², knows.
    """
    starts, held = [0], 0
    for index, count in enumerate(expected.tolist()):
        held += count
        if held >= LEAST:
            starts.append(index + 1)
            held = 0
    if len(starts) > 1:
        starts.pop()  # what is left over belongs to the last bin; or it begins past the end
    return np.add.reduceat(expected, starts), np.add.reduceat(actual, starts)


def compare(reference: Reference, tally: DriftCounts) -> Drift:
    """See `Drift`. Probabilities and similarities have an order, so their thin bins are merged."""
    pairs = {"clusters": (reference.tally.clusters, tally.clusters)}
    for part in PARTS[1:]:
        pairs[part] = merged(getattr(reference.tally, part), getattr(tally, part))
    return Drift(
        reference.tally,
        tally,
        {part: stability_index(*pair) for part, pair in pairs.items()},
        {part: by_chance(*pair) for part, pair in pairs.items()},
        reference.numbers,
    )


class Sliding(Generic[SumT]):
    """A sum over the latest images: those of the last hour, or more where they were few.

    Images are summed in blocks, and the oldest blocks are forgotten one by one. A block takes in images for
    `block_seconds` at least, and `block_images` at least: a quiet stream keeps enough for a share to mean
    something, a busy one all of an hour.

    Args:
        nothing: the sum of no images.
        clock: seconds, steady.
    """

    def __init__(
        self,
        nothing: SumT,
        clock: Callable[[], float],
        *,
        blocks: int = 30,
        block_seconds: float = 120.0,
        block_images: int = 400,
    ) -> None:
        self._nothing = nothing
        self._clock = clock
        self._seconds, self._images = block_seconds, block_images
        self._closed: collections.deque[SumT] = collections.deque(maxlen=blocks - 1)
        self._open, self._since, self._in_open = nothing, clock(), 0

    def add(self, part: SumT, images: int) -> None:
        """Add what was summed over so many images."""
        now = self._clock()
        if now - self._since >= self._seconds and self._in_open >= self._images:
            self._closed.append(self._open)
            self._open, self._since, self._in_open = self._nothing, now, 0
        self._open = self._open + part
        self._in_open += images

    def total(self) -> SumT:
        total = self._open
        for block in self._closed.copy():
            total = total + block
        return total


class SlidingTally:
    """A tally of the latest images, see `Sliding`, and what it is compared with.

    Args:
        reference: what is compared with, and in which bins.
        clock: seconds, steady.
        blocks: see `Sliding`, which takes them.
    """

    def __init__(self, reference: Reference, clock: Callable[[], float], **blocks: Any) -> None:
        self.reference = reference
        self._recent = Sliding(reference.nothing, clock, **blocks)

    def add(self, tally: DriftCounts) -> None:
        self._recent.add(tally, tally.images)

    def tally(self) -> DriftCounts:
        return self._recent.total()

    def drift(self) -> Drift:
        return compare(self.reference, self.tally())
