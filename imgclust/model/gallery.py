"""What people see of a model: each cluster's typical images, their thumbnails, and the map."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imgclust.errors import ImageError
from imgclust.model.folder import EXEMPLARS, MAP_ROWS, Array
from imgclust.model.parts import Cluster
from imgclust.types import Floats

MAP_EPOCHS = 200

Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True)
class Gallery:
    """What people see of a model.

    Attributes:
        clusters: with names and typical images, in the order of the arrays.
        map_data: a Parquet file; see `draw_map`.
        thumbnails: image id → WebP.
    """

    clusters: tuple[Cluster, ...]
    map_data: bytes
    thumbnails: Mapping[str, bytes]


def show(
    arrays: Mapping[str, Array],
    numbers: Sequence[int],
    names: Sequence[str | None],
    *,
    ids: Sequence[str],
    points: Floats,
    labels: npt.NDArray[np.int32],
    seed: int | None,
    stability: Sequence[float | None] | None = None,
    thumbnail: Callable[[int], bytes | None] | None = None,
) -> Gallery:
    """Choose typical images, and draw the map.

    Args:
        arrays: of the training rows; see `imgclust.model.folder.SPECS`.
        numbers, names: of the clusters, in the order of the arrays.
        ids: of the rows of `points`, the training rows first.
        points, labels: of all images that the map may show; labels are in `numbers`.
        seed: of the map.
        stability: of the clusters, where it is known.
        thumbnail: row → WebP, or None.
    """
    embeddings, own = arrays["embeddings"], arrays["labels"]
    typical = exemplars(embeddings, own, arrays["probabilities"])
    sizes = np.bincount(own[own >= 0], minlength=len(numbers)).tolist()
    clusters = tuple(
        Cluster(number, name, size, tuple(ids[row] for row in rows), stable)
        for number, name, size, rows, stable in zip(
            numbers, names, sizes, typical, stability or [None] * len(numbers), strict=True
        )
    )
    pictures = {ids[row]: thumbnail(int(row)) for rows in typical for row in rows} if thumbnail else {}
    return Gallery(
        clusters,
        draw_map(points, labels, ids, seed=seed),
        {id_: picture for id_, picture in pictures.items() if picture},
    )


def centres(embeddings: Array, labels: npt.NDArray[np.int32]) -> Floats:
    """float32 (k, d): the mean direction of each cluster, unit-norm."""
    k = int(labels.max(initial=-1)) + 1
    return directions(embeddings, [np.flatnonzero(labels == cluster) for cluster in range(k)])


def directions(embeddings: Array, members: Sequence[Rows]) -> Floats:
    """float32 (k, d): the mean direction of each of some sets of rows, unit-norm."""
    sums = np.zeros((len(members), embeddings.shape[1]), np.float64)
    for place, rows in enumerate(members):
        sums[place] = embeddings[rows].astype(np.float32).sum(axis=0, dtype=np.float64)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.asarray(sums / np.maximum(lengths, np.finfo(np.float64).tiny), np.float32)


def exemplars(
    embeddings: Array, labels: npt.NDArray[np.int32], probabilities: Floats, count: int = EXEMPLARS
) -> list[Rows]:
    """For each cluster the rows of its most typical images, the most typical first.

    Typical is what lies in the middle of the cluster's pictures: the largest cosine to its centre, among the
    half of the members that HDBSCAN is surest of.
    """
    found = []
    for cluster, centre in enumerate(centres(embeddings, labels)):
        members = np.flatnonzero(labels == cluster)
        sure = probabilities[members] >= np.median(probabilities[members])
        members = np.concatenate([members[sure], members[~sure]])
        cosine = embeddings[members].astype(np.float32) @ centre
        order = np.lexsort((-cosine, np.arange(len(members)) >= sure.sum()))
        found.append(members[order[:count]])
    return found


def thumbnail_of(source: str) -> bytes | None:
    """WebP of a picture in a local file, at most 128 px; None where there is none to be had."""
    from imgclust.images import decode

    path = Path(source)
    try:
        if not path.is_file() or path.stat().st_size > decode.DEFAULT_LIMITS.max_bytes:
            return None
        return decode.thumbnail(path.read_bytes())
    except (OSError, ValueError, ImageError):  # ValueError: a NUL in the name
        return None


def draw_map(
    points: Floats, labels: npt.NDArray[np.int32], ids: Sequence[str], *, seed: int | None = None
) -> bytes:
    """A Parquet file (id, x, y, cluster): the points laid out on a plane, at most 20,000 of them.

    A second UMAP from the clustered space to two dimensions: it keeps together what was clustered together,
    where the first two principal axes draw most clusters on top of each other.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from imgclust.placing.near_points import near_points
    from imgclust.placing.quick_umap import QuickUMAP, calmly, keep_compiled

    chosen = np.arange(len(points))
    if len(chosen) > MAP_ROWS:
        chosen = np.sort(np.random.default_rng(seed).permutation(len(points))[:MAP_ROWS])
    count = min(30, len(chosen) - 1)
    keep_compiled()
    with calmly():
        plane = QuickUMAP(
            n_neighbors=count,
            min_dist=0.6,
            n_epochs=MAP_EPOCHS,
            random_state=seed or 0,
            n_jobs=1,
            precomputed_knn=near_points(points[chosen], count),
        ).fit_transform(points[chosen])
    table = pa.table(
        {
            "id": pa.array([ids[int(row)] for row in chosen], pa.string()),
            "x": pa.array(plane[:, 0].astype(np.float32)),
            "y": pa.array(plane[:, 1].astype(np.float32)),
            "cluster": pa.array(labels[chosen]),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())
