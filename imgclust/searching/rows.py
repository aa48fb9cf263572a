"""The rows that can be searched: of embeddings folders, or the training images of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgclust.errors import EmbeddingsError, ImgclustError
from imgclust.types import OTHER, Floats, Ints

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel


@dataclasses.dataclass(frozen=True, slots=True)
class SearchRows:
    """n images; `labels` are None where no model says what cluster they are in.

    Attributes:
        ids, sources: n strings; a source is empty where it is not known.
        vectors: float32 (n, d), unit-norm.
        labels: int32 (n,).
    """

    ids: Sequence[str]
    sources: Sequence[str]
    vectors: Floats
    labels: Ints | None

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, keep: np.ndarray) -> SearchRows:
        """Some of the rows, by their numbers."""
        labels = None if self.labels is None else self.labels[keep]
        ids, sources = ([values[row] for row in keep.tolist()] for values in (self.ids, self.sources))
        return SearchRows(ids, sources, self.vectors[keep], labels)


def rows_of_model(model: ClusterModel) -> SearchRows:
    """The training images that the map names: all of them, up to 20,000 images, a sample of more.

    Raises:
        ImgclustError: the map does not say which images it shows.
    """
    rows = model.map_rows
    known = np.flatnonzero(rows >= 0)
    if not len(known):
        raise ImgclustError(
            f"model {model.version} does not know the names of its training images: give the embeddings "
            "folder that it was fitted on"
        )
    names = model.map.column("id").to_pylist()
    ids = [str(names[place]) for place in known.tolist()]
    taken = rows[known]
    vectors = model.arrays["embeddings"][taken].astype(np.float32)
    return SearchRows(ids, [""] * len(ids), vectors, model.labels_[taken])


def rows_of_folder(
    folder: Path, model: ClusterModel | None, cluster: int | None = None
) -> Iterator[SearchRows]:
    """An embeddings folder, shard by shard; with a cluster, the images that the model predicts to be in it.

    Raises:
        EmbeddingsError: the folder is unreadable, or of another encoder than the model's.
    """
    from imgclust.embedding.store import iter_embeddings

    if cluster is not None and model is None:
        raise EmbeddingsError("a cluster is one of a model: name the model, too")
    for shard in iter_embeddings(folder):
        if model is None or cluster is None:
            if model is not None:
                model.check_encoder(shard.identity)
            yield SearchRows(shard.ids, shard.sources, shard.vectors, None)
            continue
        labels = model.predict(shard.vectors, encoder=shard.identity).labels
        rows = SearchRows(shard.ids, shard.sources, shard.vectors, labels)
        yield rows.of(np.flatnonzero(labels == cluster))


def check_cluster(model: ClusterModel, cluster: int | None) -> None:
    """Refuse a cluster that the model does not have; −1 is "other"."""
    numbers = [one.id for one in model.clusters]
    if cluster is not None and cluster not in (*numbers, OTHER):
        listed = ", ".join(map(str, numbers[:20]))
        raise ImgclustError(
            f"model {model.version} has no cluster {cluster}: it has {listed}, and -1 for other"
        )
