"""A model's map for embedding-atlas: Parquet with places, clusters and small pictures of millions of images.

Our own page draws up to 20,000 images. Beyond, embedding-atlas does, a program for exactly that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgclust.errors import ImgclustError
from imgclust.support.tables import appearing
from imgclust.types import OTHER, Floats, Ints

if TYPE_CHECKING:
    import pyarrow as pa

    from imgclust.model.model import ClusterModel

NEAREST = 3  # images of the map that say where an image beside it lies
ROWS = 4096  # predicted, drawn and written at once
OPTIONS = (
    "--x",
    "x",
    "--y",
    "y",
    "--text",
    "id",
    "--image",
    "image",
)  # of embedding-atlas, for these columns


def write_atlas(
    model: ClusterModel,
    path: Path,
    folder: Path | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write the images of an embeddings folder, or those on the model's map, with their places.

    Images on the map are where it has them. Any other lies at the mean of the places of the images of the map
    that are nearest to it in the clustered space, the nearer ones counting more.

    Args:
        path: a Parquet file: image (struct of bytes and path, as embedding-atlas and Hugging Face's datasets
            have it; null where there is no file to read), id, name, cluster, probability, novel, x, y.
        folder: made by `imgclust embed`.
        progress: called with the number of rows that are done.

    Returns:
        The number of images.

    Raises:
        EmbeddingsError: the folder is unreadable, or of another encoder.
        ImgclustError: the map does not say which images it shows, or the file cannot be written.
    """
    import pyarrow.parquet as pq

    done = 0
    with appearing(path) as file, pq.ParquetWriter(file, _schema(), compression="zstd") as writer:
        for table in _of_map(model) if folder is None else _of_folder(model, folder):
            writer.write_table(table)
            done += len(table)
            if progress:
                progress(done)
    return done


def _schema() -> pa.Schema:
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.schema(
        [
            ("image", image), ("id", pa.string()), ("name", pa.string()), ("cluster", pa.int32()),
            ("probability", pa.float32()), ("novel", pa.bool_()), ("x", pa.float32()), ("y", pa.float32()),
        ]
    )  # fmt: skip  # the order of its table, which begins with what people look at


def _table(
    model: ClusterModel,
    ids: Sequence[str],
    places: Floats,
    labels: Ints,
    pictures: Sequence[bytes | None],
    probabilities: Any = None,
    novel: Any = None,
) -> pa.Table:
    import pyarrow as pa

    unknown = [None] * len(ids)
    names = ["other" if c == OTHER else model.name(c) or f"cluster {c}" for c in labels.tolist()]
    images = [None if p is None else {"bytes": p, "path": i} for i, p in zip(ids, pictures, strict=True)]
    columns = {
        "image": images, "id": list(ids), "name": names, "cluster": labels,
        "probability": unknown if probabilities is None else probabilities,
        "novel": unknown if novel is None else novel, "x": places[:, 0], "y": places[:, 1],
    }  # fmt: skip
    return pa.table(columns, schema=_schema())


def _map_places(model: ClusterModel) -> Floats:
    """float32 (m, 2)."""
    return np.stack([np.asarray(model.map.column(axis), np.float32) for axis in ("x", "y")], axis=1)


def _of_map(model: ClusterModel) -> Iterator[pa.Table]:
    ids = [str(image) for image in model.map.column("id").to_pylist()]
    labels, places = np.asarray(model.map.column("cluster"), np.int32), _map_places(model)
    for start in range(0, len(ids), ROWS):
        part = slice(start, start + ROWS)
        yield _table(
            model, ids[part], places[part], labels[part], [model.thumbnails.get(i) for i in ids[part]]
        )


def _of_folder(model: ClusterModel, folder: Path) -> Iterator[pa.Table]:
    from imgclust.embedding.store import iter_embeddings, shards, working_folder
    from imgclust.exporting.rows import placed
    from imgclust.model.gallery import thumbnail_of

    places = MapPlaces(model)
    with ThreadPoolExecutor(thread_name_prefix="imgclust-atlas") as pool:
        for file, shard in zip(shards(folder), iter_embeddings(folder), strict=True):
            sources = [placed(source, working_folder(file) or "") for source in shard.sources]
            for start in range(0, len(shard), ROWS):
                part = slice(start, start + ROWS)
                ids = shard.ids[part]
                found = model.predict(shard.vectors[part], encoder=shard.identity)
                yield _table(
                    model,
                    ids,
                    places.of(ids, found.points),
                    found.labels,
                    list(pool.map(thumbnail_of, sources[part])),
                    found.probabilities,
                    found.novel,
                )


class MapPlaces:
    """Places on the model's map for any image.

    Raises:
        ImgclustError: the map does not say which training images it shows.
    """

    def __init__(self, model: ClusterModel) -> None:
        from sklearn.neighbors import KDTree

        places = _map_places(model)
        ids = model.map.column("id").to_pylist()
        self._known = {str(i): place for i, place in zip(ids, places, strict=True)}
        rows = model.map_rows
        trained = np.flatnonzero(rows >= 0)
        if not len(trained):
            raise ImgclustError(
                f"the map of model {model.version} does not say which images it shows, so other images "
                "cannot be placed on it: fit again, or leave --images out"
            )
        self._places = places[trained]
        self._tree = KDTree(model.arrays["points"][rows[trained]])

    def of(self, ids: Sequence[str], points: Floats) -> Floats:
        """float32 (n, 2): from the map, by id; else from the neighbours of the points, (n, d)."""
        distances, near = self._tree.query(points, min(NEAREST, len(self._places)))
        weights = 1 / np.maximum(distances, 1e-6)
        weights /= weights.sum(axis=1, keepdims=True)
        found = np.einsum("nk,nkd->nd", weights, self._places[near]).astype(np.float32)
        for row, image in enumerate(ids):
            if image in self._known:
                found[row] = self._known[image]
        return np.asarray(found, np.float32)
