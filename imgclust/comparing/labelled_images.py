"""Images by which a class is judged: of a model, or of an embeddings folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgclust.embedding.store_columns import check_memory, count_rows
from imgclust.errors import ImgclustError
from imgclust.searching.rows import SearchRows, rows_of_folder, rows_of_model
from imgclust.types import Floats

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel

ID_BYTES = 150  # of an image's id, as Python's
COPIES = 12  # bytes of each number of an embedding: as they are read, joined, and without copies of examples


def image_of(model: ClusterModel, folder: Path | None, image: str) -> Floats | None:
    """The embedding of one image of a folder, or of the model's training images: float32 (d,); None: it is
    not there.

    Raises:
        EmbeddingsError, ImgclustError: as with `other_images`.
    """
    for block in _blocks(model, folder):
        if image in block.ids:
            found: Floats = block.vectors[list(block.ids).index(image)]
            return found
    return None


def other_images(model: ClusterModel, folder: Path | None) -> tuple[Sequence[str], Floats]:
    """Ids and embeddings of a folder's images, or of the model's training images.

    Raises:
        EmbeddingsError: the folder is unreadable, of another encoder, or larger than memory.
        ImgclustError: the model does not know the names of its training images.
    """
    if folder is not None:
        remedy = "leave --on out to judge by the model's training images, or give labels"
        check_memory(folder, count_rows(folder), ID_BYTES, COPIES, remedy)
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
