"""How well a model's clusters agree with labels that people gave. `evaluate_labels` is pure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgclust.comparing.images import predict_images
from imgclust.editing.golden_check import BrokenGolden, golden_images
from imgclust.errors import ImgclustError
from imgclust.model.drift import Drift, DriftCounts, Reference, compare
from imgclust.support.spreadsheets import unguard
from imgclust.types import OTHER, Prediction

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.model.parts import Cluster

ID, LABEL = "id", "label"
SAME = 0.999  # cosine from which an image is one of the training images


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterLabels:
    """The labels of a cluster's images.

    Attributes:
        number, name: of the cluster; -1 and None are "other".
        images: with a label, in it.
        labels: label → images, the most frequent first.
    """

    number: int
    name: str | None
    images: int
    labels: Mapping[str, int]

    @property
    def purity(self) -> float:
        """The share of the most frequent label, 0..1; 0 for a cluster without labelled images."""
        return max(self.labels.values(), default=0) / max(self.images, 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's predictions against given labels.

    Attributes:
        images: that have a label, and were predicted.
        unlabelled: images that were predicted, without a label.
        unknown: ids of the file that are no image's.
        ami: adjusted mutual information of labels and clusters, "other" being one more cluster; 1: the same
            groups, 0: as by chance.
        purity: of the images in clusters, the share with the most frequent label of their cluster; None: none
            of them is in a cluster.
        other: the share in no cluster.
        clusters: the model's, in its order, and "other" last.
        held_out: what the fit measured on images that it held out; empty: it held out none.
        golden: how many golden images the model has.
        broken: those that it breaks.
        drift: of the images of a folder that were not trained on, against those that the fit held out;
            None: not measured.
    """

    images: int
    unlabelled: int
    unknown: int
    ami: float
    purity: float | None
    other: float
    clusters: tuple[ClusterLabels, ...]
    held_out: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    golden: int = 0
    broken: tuple[BrokenGolden, ...] = ()
    drift: Drift | None = None


def evaluate(
    model: ClusterModel,
    labels: Mapping[str, str],
    folder: Path | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Judge a model by labels, on an embeddings folder or on its training images.

    Args:
        labels: image id → label.
        advance: called with numbers of images as they are predicted.

    Raises:
        EmbeddingsError: the folder is unreadable, or of another encoder.
        ImgclustError: no image has a label, or the model does not know the names of its training images.
    """
    reference = None if folder is None else Reference.of_model(model)
    counted: list[DriftCounts] = []
    seen = None if reference is None else lambda predicted: counted.append(_new_images(reference, predicted))
    predicted = predict_images([model], folder, labels, seen, advance)
    ids = [str(image) for image in predicted.ids]
    found = evaluate_labels(
        ids, predicted.labels[0].tolist(), model.clusters, labels, others=predicted.left_out,
        other=predicted.example,
    )  # fmt: skip
    return dataclasses.replace(
        found,
        held_out=model.figures.get("test") or {},
        golden=len(golden_images(model.edits)),
        broken=tuple(model.check_golden()),
        drift=compare(reference, sum(counted, reference.nothing)) if reference and counted else None,
    )


def _new_images(reference: Reference, predicted: Prediction) -> DriftCounts:
    """Counts of images that were not trained on: those are more similar to themselves than any other is."""
    new = predicted.similarities < SAME
    novel = int(np.count_nonzero(predicted.novel[new]))
    return reference.count_tags(
        predicted.labels[new], predicted.probabilities[new], novel, predicted.similarities[new]
    )


def evaluate_labels(
    ids: Sequence[str],
    clusters: Sequence[int],
    known: Sequence[Cluster],
    labels: Mapping[str, str],
    *,
    others: int = 0,
    other: str | None = None,
) -> Evaluation:
    """Compare clusters with labels.

    Args:
        ids, clusters: n each; -1 is "other".
        known: all clusters of the model.
        labels: image id → label.
        others: how many further images there are, without a label; `other` is one of them.

    Raises:
        ImgclustError: none of the labelled ids is an image's.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    pairs = [(cluster, labels[i]) for i, cluster in zip(ids, clusters, strict=True) if i in labels]
    unknown = sorted(labels.keys() - set(ids))
    if not pairs:
        example = f", like {unknown[0]!a:.80}" if unknown else ""
        known_id = next(iter(ids), other)
        has = "" if known_id is None else f"; an image's is {known_id!a:.80}"
        raise ImgclustError(
            f"none of the {len(labels)} labelled ids{example}, is that of one of the {len(ids) + others} "
            f"images{has}: give ids as `imgclust embed` stored them, or the images' folder as --on EMBEDDINGS"
        )
    members = {number: Counter[str]() for number in (*(cluster.id for cluster in known), OTHER)}
    for cluster, label in pairs:
        members[cluster][label] += 1
    names = {cluster.id: cluster.name for cluster in known}
    found = [
        ClusterLabels(number, names.get(number), counts.total(), dict(counts.most_common()))
        for number, counts in members.items()
    ]
    inside = len(pairs) - found[-1].images
    most = sum(max(cluster.labels.values(), default=0) for cluster in found[:-1])
    return Evaluation(
        images=len(pairs),
        unlabelled=len(ids) - len(pairs) + others,
        unknown=len(unknown),
        ami=float(adjusted_mutual_info_score(*zip(*pairs, strict=True))),
        purity=most / inside if inside else None,
        other=found[-1].images / len(pairs),
        clusters=tuple(found),
    )


def read_labels(path: Path) -> dict[str, str]:
    """Read a CSV or TSV file with the columns `id` and `label`.

    Raises:
        ImgclustError: it cannot be read, lacks a column, has an empty cell or no row, or gives an image two
            labels; the text names the row.
    """
    from imgclust.images.lists import csv_rows

    labels: dict[str, str] = {}
    for number, row in enumerate(csv_rows(path), 1):
        where = f"{str(path)!a}, row {number}"
        if isinstance(row, str):
            raise ImgclustError(f"{where} cannot be read: {row}")
        name, label = (_cell(row, column, where) for column in (ID, LABEL))
        if labels.setdefault(name, label) != label:
            raise ImgclustError(
                f"{where} gives {name!a:.80} the label {label!a:.80}, an earlier row {labels[name]!a:.80}: "
                "keep one label for an image"
            )
    if not labels:
        raise ImgclustError(f"{str(path)!a} has no labels: after the line id,label write one row per image")
    return labels


def _cell(row: Mapping[str, Any], column: str, where: str) -> str:
    if column not in row:
        listed = ", ".join(map(ascii, row))
        raise ImgclustError(
            f"{where} has no {column}: the file needs the columns id and label, has {listed:.200}"
        )
    text = unguard(row[column])
    if not text.strip():
        raise ImgclustError(f"{where} has an empty {column}: fill it in, or leave the row out")
    return text
