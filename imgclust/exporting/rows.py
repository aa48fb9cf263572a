"""The rows that are exported: of embeddings folders, with places and sizes, or a model's training images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.embedding.store import iter_embeddings, shards, working_folder
from imgclust.images.sources import is_url
from imgclust.searching.rows import rows_of_model
from imgclust.tagging.rows import CHUNK, Row, predict_rows

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel


def rows_of_folder(model: ClusterModel, folder: Path) -> Iterator[Row]:
    """An embeddings folder as the model predicts it, shard by shard; the sources are absolute.

    Raises:
        EmbeddingsError: the folder is unreadable, or of another encoder than the model's.
    """
    for path, shard in zip(shards(folder), iter_embeddings(folder), strict=True):
        model.check_encoder(shard.identity)
        start = working_folder(path) or ""
        sizes = list(zip(shard.widths.tolist(), shard.heights.tolist(), strict=True))
        sources = [placed(source, start) for source in shard.sources]
        for first in range(0, len(shard), CHUNK):
            part = slice(first, first + CHUNK)
            yield from predict_rows(
                model,
                shard.ids[part],
                sources[part],
                shard.vectors[part],
                shard.attributes[part],
                sizes[part],
            )


def rows_of_training(model: ClusterModel) -> Iterator[Row]:
    """The training images that the model's map names, as it predicts them; neither source nor size is known.

    Raises:
        ImgclustError: the map does not say which images it shows.
    """
    found = rows_of_model(model)
    for first in range(0, len(found), CHUNK):
        part = slice(first, first + CHUNK)
        ids = found.ids[part]
        yield from predict_rows(model, ids, found.sources[part], found.vectors[part], [{}] * len(ids))


def placed(source: str, folder: str = "") -> str:
    """A source as an absolute path, or the URL that it is; empty stays empty.

    Args:
        folder: where relative paths begin; by default, the working folder.
    """
    return source if not source or is_url(source) else os.path.abspath(os.path.join(folder, source))


def with_places(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows with absolute sources."""
    for row in rows:
        yield dataclasses.replace(row, source=placed(row.source))
