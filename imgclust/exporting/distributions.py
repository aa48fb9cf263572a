"""How images, or groups of them, spread over the clusters: Parquet for recommenders, in long form.

The weights of one image are its soft memberships in its candidates, three at most. What is left up to 1 goes
to −1: "other", and all further clusters. So the weights of an image, and of a group, add up to 1.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from imgclust.errors import ImgclustError
from imgclust.support.path_text import storable
from imgclust.support.tables import appearing
from imgclust.types import OTHER

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.tagging.rows import Row

PIECE = 10_000  # images, or groups, whose weights are held before they are written
_WEIGHT = [("cluster", pa.int32()), ("name", pa.string()), ("weight", pa.float32())]
IMAGE_COLUMNS = pa.schema([("id", pa.string()), *_WEIGHT])
GROUP_COLUMNS = pa.schema([("group", pa.string()), ("images", pa.int64()), *_WEIGHT])

Weights = dict[int, float]
Keyed = tuple[dict[str, str | int], Weights]


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        keys: images, or groups.
        images: that they were made of.
        without: images that do not have the attribute, and are in no group.
    """

    keys: int
    images: int
    without: int = 0


def weights_of(row: Row) -> Weights:
    """Cluster → weight of one image; they add up to 1, and −1 has what is in no candidate."""
    weights: Weights = defaultdict(float)
    for guess in row.candidates:
        weights[guess.cluster] += max(0.0, guess.score)
    total = sum(weights.values())
    if total > 1:
        return {cluster: weight / total for cluster, weight in weights.items()}
    return {**weights, OTHER: 1 - total} if total < 1 else dict(weights)


def write_distributions(
    rows: Iterable[Row], path: Path, model: ClusterModel, by: str | None = None
) -> Written:
    """A row for each image (`id`) or group (`group`, `images`) and cluster that has a weight in it.

    Args:
        rows: read once. Memory holds the groups, or a piece of the images.
        path: `.parquet`; its metadata name the model, its taxonomy and the attribute.
        model: whose clusters they are.
        by: an attribute; a group is all images that have the same value, and its weights are their mean.
            Numbers and truth values are groups by their text.

    Raises:
        ImgclustError: no image has the attribute, or the file cannot be written.
    """
    about = {"imgclust.model": model.version, "imgclust.taxonomy": model.taxonomy, "imgclust.by": by or ""}
    if by is None:
        each: Iterator[Keyed] = (({"id": storable(row.id)}, weights_of(row)) for row in rows)
        keys = _write(each, path, IMAGE_COLUMNS.with_metadata(about), model)
        return Written(keys, keys)
    sums, counts, without = _grouped(rows, by)
    groups: Iterator[Keyed] = (
        ({"group": group, "images": counts[group]}, {c: w / counts[group] for c, w in sums[group].items()})
        for group in sorted(sums)
    )
    keys = _write(groups, path, GROUP_COLUMNS.with_metadata(about), model)
    return Written(keys, counts.total(), without)


def _grouped(rows: Iterable[Row], by: str) -> tuple[dict[str, Weights], Counter[str], int]:
    sums: defaultdict[str, Weights] = defaultdict(lambda: defaultdict(float))
    counts, without = Counter[str](), 0
    others: set[str] = set()
    for row in rows:
        value = row.attributes.get(by)
        if value is None:
            without += 1
            others.update(itertools.islice(row.attributes, 20) if len(others) < 20 else ())
            continue
        group = storable(str(value))
        counts[group] += 1
        for cluster, weight in weights_of(row).items():
            sums[group][cluster] += weight
    if without and not sums:
        known = ", ".join(map(ascii, sorted(others)[:20])) or "none"
        raise ImgclustError(
            f"none of {without} images has the attribute {by!a:.200}; the attributes are: {known}. "
            "They come from the columns of a list, or from an embeddings folder"
        )
    return sums, counts, without


def _write(keyed: Iterator[Keyed], path: Path, schema: pa.Schema, model: ClusterModel) -> int:
    names = {cluster.id: cluster.name for cluster in model.clusters}
    keys = 0
    with appearing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as out:
        while piece := list(itertools.islice(keyed, PIECE)):
            keys += len(piece)
            records = [
                {**key, "cluster": cluster, "name": names.get(cluster), "weight": weight}
                for key, weights in piece
                for cluster, weight in sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))
                if weight > 0
            ]
            out.write_table(pa.Table.from_pylist(records, schema=schema))
    return keys
