"""The images on which models are judged, and what each model predicts for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from imgclust.embedding.store import vectors_of
from imgclust.embedding.store_columns import count_rows, first_id, some_columns
from imgclust.errors import ModelError
from imgclust.searching.rows import rows_of_model
from imgclust.types import EncoderIdentity, Floats, Ints, Prediction

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel

Batch = tuple[Sequence[str], Floats, EncoderIdentity | None]


@dataclasses.dataclass(frozen=True, slots=True)
class PredictedImages:
    """n images.

    Attributes:
        ids: n strings; of a folder Arrow's, which take a third of the memory.
        labels: int32 (n,) for each model: the numbers of its clusters; -1 is "other".
        left_out: images that were not wanted.
        example: the id of the first image of the folder.
    """

    ids: Sequence[str]
    labels: tuple[Ints, ...]
    left_out: int = 0
    example: str | None = None


def predict_images(
    models: Sequence[ClusterModel],
    folder: Path | None = None,
    wanted: Collection[str] | None = None,
    seen: Callable[[Prediction], None] | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> PredictedImages:
    """Predict the images of an embeddings folder, or else the training images of the models, each once.

    Training images are predicted like any others: their fitted labels differ for a few of them, and another
    model has none for them.

    Args:
        models: of the same encoder.
        folder: made by `imgclust embed`.
        wanted: ids of the folder's images that are; the others are counted. None: all.
        seen: called with each batch of predictions, of each model in turn.
        advance: called with the number of images of each batch.

    Raises:
        ModelError: the models take embeddings of different encoders.
        EmbeddingsError: the folder is unreadable, or of another encoder.
        ImgclustError: a model does not know the names of its training images.
    """
    check_same_encoder(models)
    ids: list[pa.Array] = []
    found: list[list[Ints]] = [[np.empty(0, np.int32)] for _ in models]
    images = _training_images(models) if folder is None else _stored_images(folder, wanted)
    for names, vectors, identity in images:
        ids.append(pa.array(names, pa.string()))
        for model, labels in zip(models, found, strict=True):
            predicted = model.predict(vectors, encoder=identity)
            labels.append(predicted.labels)
            if seen is not None:
                seen(predicted)
        advance(len(names))
    known = pa.chunked_array(ids, pa.string())
    of_images = tuple(np.concatenate(labels) for labels in found)
    if folder is None or wanted is None:
        return PredictedImages(known, of_images)
    return PredictedImages(known, of_images, count_rows(folder) - len(known), first_id(folder))


def check_same_encoder(models: Sequence[ClusterModel]) -> None:
    """Refuse models that cannot be asked about the same embeddings.

    Raises:
        ModelError: naming both encoders, or both widths where an encoder is not known.
    """
    first = models[0]
    for model in models[1:]:
        one, other = first.encoder, model.encoder
        same = model.dim == first.dim if one is None or other is None else other.same_space(one)
        if not same:
            raise ModelError(
                f"model {first.version} takes embeddings of {_encoder(first)}, model {model.version} those "
                f"of {_encoder(model)}: only models of the same encoder can be compared; embed the images "
                "again and fit again for one of them"
            )


def _encoder(model: ClusterModel) -> str:
    return f"{model.dim} numbers" if model.encoder is None else model.encoder.describe()


def _training_images(models: Sequence[ClusterModel]) -> Iterator[Batch]:
    """An image that several models were fitted on comes once; the same id with another vector is another."""
    seen: set[tuple[str, bytes]] = set()
    for model in models:
        rows = rows_of_model(model)
        keys = [(name, row.tobytes()) for name, row in zip(rows.ids, rows.vectors, strict=True)]
        fresh = rows.of(np.flatnonzero([key not in seen for key in keys]))
        seen.update(keys)
        if len(fresh):
            yield fresh.ids, fresh.vectors, model.encoder


def _stored_images(folder: Path, wanted: Collection[str] | None) -> Iterator[Batch]:
    for batch, identity in some_columns(folder, ["id", "embedding"], wanted):
        yield batch.column("id"), vectors_of(batch.column("embedding"), identity.dim), identity
