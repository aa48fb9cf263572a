"""Why images are in "other": each is novel, between clusters, or in a thin region; and what is inside it.

The reasons are those of `imgclust.model.reasons`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgclust.model.gallery import exemplars
from imgclust.model.reasons import KINDS, kinds_of, predicted_by_others
from imgclust.predictor.batches import predict_batches
from imgclust.searching.rows import SearchRows, rows_of_model
from imgclust.types import OTHER, Floats, Ints, Prediction

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel

LEAST = 5  # images of a candidate cluster
PART = 50  # or one of so many, of all images in "other"
NUMBERS, TEXT = 12, 2_000  # bytes that are held of each number of an embedding, and of the rest of an image


@dataclasses.dataclass(frozen=True, slots=True)
class OtherImage:
    """An image in "other".

    Attributes:
        kind: one of `KINDS`.
        nearest, score: its best candidate and that one's score; None and 0: it has none.
        similarity: cosine to the nearest other training image.
        assigned: the model puts it into its best candidate.
        group: number of the candidate cluster that it is in, from 1; None: in none.
    """

    id: str
    source: str
    kind: str
    nearest: int | None
    score: float
    similarity: float
    assigned: bool
    group: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class OtherGroup:
    """Images in "other" that lie together: a cluster that might be.

    Attributes:
        number: from 1, the largest first.
        nearest: the cluster that is the best candidate of most of them; None: they have none.
        members: places in `Other.images`, the most typical first.
    """

    number: int
    nearest: int | None
    members: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Other:
    """What is in "other".

    Attributes:
        total: images that were looked at, those in clusters too.
        images: those in "other".
        groups: candidate clusters inside.
        names: of the model's clusters.
    """

    total: int
    images: tuple[OtherImage, ...]
    groups: tuple[OtherGroup, ...]
    names: Mapping[int, str | None]

    def kinds(self) -> dict[str, int]:
        """Images of each kind."""
        found = Counter(image.kind for image in self.images)
        return {kind: found[kind] for kind in KINDS}

    def nearest(self) -> list[tuple[int, int]]:
        """(cluster, images whose best candidate it is), the most first; of images between clusters."""
        between = (image.nearest for image in self.images if image.kind == "between")
        found = Counter(number for number in between if number is not None)
        return sorted(found.items(), key=lambda item: (-item[1], item[0]))


def explain_other(model: ClusterModel, folder: Path | None = None) -> Other:
    """Explain "other" among the training images that the model names, or in an embeddings folder.

    Raises:
        EmbeddingsError: the folder is unreadable, or of another encoder.
        ImgclustError: the model does not know the names of its training images.
    """
    total, rows, raw = _training(model) if folder is None else _stored(model, folder)
    kinds, groups = kinds_of(model, raw), groups_in(raw.points)
    shown = model.shown(raw, rows.vectors)
    images = tuple(
        OtherImage(
            image, source, kind, None if near < 0 else near, score, similarity, assigned, group or None
        )
        for image, source, kind, near, score, similarity, assigned, group in zip(
            rows.ids,
            rows.sources,
            kinds,
            shown.candidates[:, 0].tolist(),
            shown.scores[:, 0].tolist(),
            raw.similarities.tolist(),
            shown.assigned.tolist(),
            (groups + 1).tolist(),
            strict=True,
        )
    )
    return Other(
        total, images, _described(images, rows.vectors, groups), {c.id: c.name for c in model.clusters}
    )


Found = tuple[
    int, SearchRows, Prediction
]  # images looked at; those in "other", and what is predicted of them


def _training(model: ClusterModel) -> Found:
    """Training images, judged by the others: each is its own nearest, and would never be novel."""
    rows = rows_of_model(model)
    assert rows.labels is not None
    some = np.flatnonzero(rows.labels == OTHER)
    numbers = model.map_rows[model.map_rows >= 0][some]
    return len(rows), rows.of(some), predicted_by_others(model, numbers)


def _stored(model: ClusterModel, folder: Path) -> Found:
    from imgclust.embedding.store import iter_embeddings
    from imgclust.embedding.store_columns import check_memory, count_rows

    total, rows, found = 0, [], []
    for shard in iter_embeddings(folder):
        model.check_encoder(shard.identity)
        prediction = predict_batches(model.predictor, shard.vectors)
        some = np.flatnonzero(model.shown(prediction, shard.vectors).unassigned().labels == OTHER)
        if not total:  # as many of the others, presumably
            likely = round(count_rows(folder) * len(some) / len(shard))
            check_memory(folder, likely, TEXT, NUMBERS, "leave --on out to look at the training images")
        total += len(shard)
        rows.append(SearchRows(shard.ids, shard.sources, shard.vectors, None).of(some))
        found.append(prediction.of(some))
    ids, sources = ([text for part in rows for text in getattr(part, name)] for name in ("ids", "sources"))
    vectors = np.concatenate([part.vectors for part in rows])
    return total, SearchRows(ids, sources, vectors, None), Prediction.concat(found)


def groups_in(points: Floats) -> Ints:
    """int32 (m,): candidate clusters among points, the largest 0; -1: in none."""
    size = max(LEAST, len(points) // PART)
    if len(points) < 2 * size:
        return np.full(len(points), OTHER, np.int32)
    from hdbscan import HDBSCAN

    clusterer = HDBSCAN(min_cluster_size=size, min_samples=LEAST)
    labels = np.asarray(clusterer.fit(points.astype(np.float64)).labels_, np.int32)
    sizes = np.bincount(labels[labels >= 0], minlength=int(labels.max()) + 1)
    rank = np.empty(len(sizes), np.int32)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return np.append(rank, np.int32(OTHER))[labels]


def _described(images: Sequence[OtherImage], vectors: Floats, groups: Ints) -> tuple[OtherGroup, ...]:
    if not len(groups) or groups.max() < 0:
        return ()
    typical = exemplars(vectors, groups, np.ones(len(groups), np.float32), count=len(groups))
    found = []
    for number, members in enumerate(typical, 1):
        near = Counter(images[row].nearest for row in members.tolist()).most_common(1)[0][0]
        found.append(OtherGroup(number, near, tuple(members.tolist())))
    return tuple(found)
