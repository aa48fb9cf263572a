"""Golden images: pictures with the cluster or class that they must, or must not, get. Pure values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from imgclust.editing.parsing import line, number, vector, vector_text
from imgclust.types import OTHER

MAX_ID = 4_096  # characters of an image's id
MAX_CLUSTERS = 1_000


@dataclasses.dataclass(frozen=True, slots=True)
class AddGolden:
    """An image, and where every model of the taxonomy has to put it.

    Attributes:
        image: its id, or the path that it was read from.
        vector: its embedding: float16, little-endian.
        clusters: numbers of clusters and classes; −1 is "other".
        never: it must be in none of them; False: it must be in one of them.
    """

    image: str
    vector: bytes
    clusters: tuple[int, ...]
    never: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {
            "op": "golden", "image": self.image, "vector": vector_text(self.vector),
            "clusters": list(self.clusters), "never": self.never,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AddGolden:
        """Raises ValueError, TypeError or KeyError for what `to_dict` did not write."""
        clusters = tuple(OTHER if one == OTHER else number(one) for one in data["clusters"])
        if not 1 <= len(clusters) <= MAX_CLUSTERS:
            raise ValueError("a golden image has a cluster")
        return cls(line(data["image"], MAX_ID), vector(data["vector"]), clusters, bool(data["never"]))


@dataclasses.dataclass(frozen=True, slots=True)
class RemoveGolden:
    """The image is no longer golden."""

    image: str

    def to_dict(self) -> dict[str, Any]:
        return {"op": "remove-golden", "image": self.image}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RemoveGolden:
        return cls(line(data["image"], MAX_ID))
