"""Names from what people have sorted already: folders, or an attribute of the images."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from imgclust.errors import ImgclustError
from imgclust.types import OTHER

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel

MOSTLY = 0.6  # share of a cluster that makes "mostly" true without a doubt


def folder_of(image_id: str) -> str | None:
    """The first folder of a relative path; None for a name alone, a URL or an absolute path."""
    if "://" in image_id:
        return None
    parts = PurePosixPath(image_id).parts
    return parts[0] if len(parts) > 1 and parts[0] not in ("/", "..", ".") else None


def mostly(members: Iterable[tuple[int, str | None]]) -> dict[int, str]:
    """Cluster → "mostly birds", of clusters that mostly have one value.

    The word says that the name is one of somebody's labels and does not hold for every member.

    Args:
        members: (cluster, value) of each image; None: it has none, which counts as another value.
    """
    tallies: dict[int, Counter[str | None]] = {}
    for cluster, value in members:
        tallies.setdefault(cluster, Counter())[value] += 1
    names = {}
    for cluster, tally in tallies.items():
        ((value, most),) = tally.most_common(1)
        if cluster != OTHER and value and most >= MOSTLY * tally.total():
            names[cluster] = f"mostly {value}"
    return names


@dataclasses.dataclass(frozen=True, slots=True)
class FolderNamer:
    """Names clusters by the first folder that their training images lie in."""

    def names(self, model: ClusterModel) -> Mapping[int, str | None]:
        """Raises ImgclustError: the model does not know the names of its training images, or no folder."""
        found = [(cluster, folder_of(image)) for image, cluster in _members(model)]
        if not any(folder for _, folder in found):
            raise ImgclustError(
                f"no training image of model {model.version} is known by a folder: its ids are names alone, "
                "URLs or absolute paths"
            )
        return dict(mostly(found))


@dataclasses.dataclass(frozen=True, slots=True)
class AttributeNamer:
    """Names clusters by an attribute of their training images, which an embeddings folder has."""

    images: Path
    attribute: str

    def names(self, model: ClusterModel) -> Mapping[int, str | None]:
        """Raises ImgclustError: no image has the attribute, or the folder cannot be read."""
        from imgclust.embedding.store_columns import some_columns

        members = list(_members(model))
        values: dict[str, str] = {}
        for batch, _ in some_columns(self.images, ["id", "attributes"], [image for image, _ in members]):
            for row in batch.to_pylist():
                if (value := json.loads(row["attributes"]).get(self.attribute)) is not None:
                    values[row["id"]] = str(value)
        if not values:
            raise ImgclustError(
                f"no training image in {str(self.images)!a} has the attribute {self.attribute!a:.100}"
            )
        return dict(mostly((cluster, values.get(image)) for image, cluster in members))


def _members(model: ClusterModel) -> Iterable[tuple[str, int]]:
    from imgclust.searching.rows import rows_of_model

    rows = rows_of_model(model)
    assert rows.labels is not None
    return zip(rows.ids, rows.labels.tolist(), strict=True)
