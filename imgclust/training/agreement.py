"""Whether images are in the right cluster: by labels that people gave, or else by fits on other samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from imgclust.training.dedupe import Rows
from imgclust.training.parameters import Parameters
from imgclust.training.refitting import fit_sample
from imgclust.training.split import Split
from imgclust.types import OTHER, Floats, Ints

REFITS = 2  # each costs as much as a fit without consensus
SHARE = 0.8  # of the images, in a refit

Counts = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Votes:
    """What is said of m images being in certain clusters.

    Attributes:
        right, judged: int64 (m,): how often it was found right, and how often it was judged.
    """

    right: Counts
    judged: Counts

    def share(self, some: npt.NDArray[np.bool_]) -> float | None:
        """The share that is right, of some of the images; None: none of them was judged."""
        judged = int(self.judged[some].sum())
        return int(self.right[some].sum()) / judged if judged else None


class Judge(Protocol):
    """Says whether images belong to clusters."""

    @property
    def by(self) -> str: ...
    def votes(self, rows: Rows, clusters: Ints) -> Votes:
        """Judge.

        Args:
            rows: int64 (m,); of all that were given to the fit.
            clusters: int32 (m,); of each, as the arrays count them.
        """
        ...


class ByLabels:
    """An image is right where its label is the most frequent one of its cluster's training images.

    Args:
        labels: of all rows; None: the image has no label.
        train: int64 (n,); rows that were trained on.
        fitted: int32 (n,); their clusters.
    """

    by = "labels"

    def __init__(self, labels: Sequence[str | None], train: Rows, fitted: Ints) -> None:
        names = sorted({label for label in labels if label is not None})
        number: dict[str | None, int] = {name: i for i, name in enumerate(names)}
        self._labels = np.array([number.get(label, -1) for label in labels])
        self._usual = _most_frequent(fitted, self._labels[train])

    def votes(self, rows: Rows, clusters: Ints) -> Votes:
        own, usual = self._labels[rows], self._usual[clusters]
        judged = (own >= 0) & (usual >= 0)
        return Votes((judged & (own == usual)).astype(np.int64), judged.astype(np.int64))


class ByRefits:
    """An image is right where fits on other samples of the images put it into the same cluster.

    A refit's cluster is that of ours with which it shares the most training images. Images that a refit has
    in no cluster are not judged by it.

    Args:
        refits: int32 (n,) each; labels of all rows that were given, in our clusters; -1: in none, or not in
            the sample.
    """

    by = "refits"

    def __init__(self, refits: Sequence[Ints]) -> None:
        self._refits = refits

    @classmethod
    def of(
        cls,
        rows: Floats,
        split: Split,
        fitted: Ints,
        p: Parameters,
        progress: Callable[[float], None] | None = None,
    ) -> ByRefits:
        """Fit again on other samples of the training and held-out images.

        Args:
            rows: float32 (n, d); all that were given.
            fitted: int32; the clusters of the training images.
            p: of the fit.
            progress: called with the share that is done.
        """
        own = np.full(len(rows), OTHER, np.int32)
        own[split.train] = fitted
        different = np.concatenate([split.train, split.test])
        found = []
        for refit in range(REFITS):
            seed = p.random_state + 1 + refit
            order = np.random.default_rng(seed).permutation(different)
            some = np.sort(order[: min(round(SHARE * len(order)), len(split.train))])
            labels = np.full(len(rows), OTHER, np.int32)
            there, _ = fit_sample(rows[some], p.alone(seed))
            labels[some] = _named(there, own[some])
            found.append(labels)
            if progress:
                progress((refit + 1) / REFITS)
        return cls(found)

    def votes(self, rows: Rows, clusters: Ints) -> Votes:
        there = np.stack([labels[rows] for labels in self._refits])
        return Votes((there == clusters).sum(axis=0), (there != OTHER).sum(axis=0))


def judge_of(
    labels: Sequence[str | None] | None,
    rows: Floats,
    split: Split,
    fitted: Ints,
    p: Parameters,
    progress: Callable[[float], None] | None = None,
) -> Judge:
    """By labels where there are any, else by refits; see there."""
    if labels is None:
        return ByRefits.of(rows, split, fitted, p, progress)
    return ByLabels(labels, split.train, fitted)


def _named(labels: Ints, own: Ints) -> Ints:
    """A refit's labels in our clusters: of each the one that most of its images are in; -1 where none is."""
    return np.append(_most_frequent(labels, own), OTHER)[labels].astype(np.int32)


def _most_frequent(clusters: Ints, labels: Ints) -> Ints:
    """int (k,): of each cluster the label that most of its images have; -1 where none has one.

    Args:
        clusters: int (n,), 0 … k - 1; -1: in none.
        labels: int (n,); -1: none.
    """
    both = (clusters >= 0) & (labels >= 0)
    counts = np.zeros((int(clusters.max(initial=-1)) + 1, int(labels.max(initial=0)) + 1), np.int64)
    np.add.at(counts, (clusters[both], labels[both]), 1)
    found: Ints = np.where(counts.any(axis=1), counts.argmax(axis=1), -1)
    return found
