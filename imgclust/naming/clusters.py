"""The clusters that namers are asked about, and their images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from imgclust.model.gallery import Rows
from imgclust.types import Ints

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel
    from imgclust.model.parts import Cluster


def found_clusters(model: ClusterModel) -> list[Cluster]:
    """Those that a fit found and that have images: no classes, which people define and name."""
    there = set(np.unique(model.labels_).tolist())
    return [cluster for cluster in model.clusters if cluster.id in there and not cluster.is_class]


def members_of(labels: Ints, numbers: Iterable[int]) -> list[Rows]:
    """The rows of each of some clusters."""
    return [np.flatnonzero(labels == number) for number in numbers]
