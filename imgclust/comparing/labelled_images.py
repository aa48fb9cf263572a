"""Images by which a class is judged: of a model, or of an embeddings folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgclust.errors import ImgclustError
from imgclust.searching.rows import SearchRows, rows_of_folder, rows_of_model
from imgclust.types import Floats

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel


def other_images(model: ClusterModel, folder: Path | None) -> tuple[Sequence[str], Floats]:
    """Ids and embeddings of a folder's images, or of the model's training images.

    Raises:
        EmbeddingsError: the folder is unreadable, or of another encoder.
        ImgclustError: the model does not know the names of its training images.
    """
    blocks = list(_blocks(model, folder))
    return [i for block in blocks for i in block.ids], np.concatenate([block.vectors for block in blocks])


def labelled_images(
    model: ClusterModel, folder: Path | None, labels: Mapping[str, str], label: str
) -> tuple[Floats, Floats]:
    """Embeddings of the images that have a label, and of those that have another one.

    Raises:
        EmbeddingsError, ImgclustError: as with `other_images`; no image has a label, or none has this one.
    """
    shows: list[Floats] = [np.empty((0, model.dim), np.float32)]
    others = list(shows)
    for block in _blocks(model, folder):
        given = [labels.get(image) for image in block.ids]
        shows.append(block.vectors[[one == label for one in given]])
        others.append(block.vectors[[one not in (None, label) for one in given]])
    found = np.concatenate(shows), np.concatenate(others)
    if not len(found[0]):
        known = ", ".join(map(ascii, sorted(set(labels.values()))[:10]))
        where = "in the folder" if folder else "of the model (others need --on EMBEDDINGS)"
        raise ImgclustError(f"no image {where} has the label {label!a:.80}; the labels are {known:.300}")
    return found


def _blocks(model: ClusterModel, folder: Path | None) -> Iterator[SearchRows]:
    if folder is None:
        yield rows_of_model(model)
    else:
        yield from rows_of_folder(folder, model)
