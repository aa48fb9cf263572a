"""How many pictures there are: counted once, so that every number on the page is the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from imgclust.report.data import ReportData


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """Pictures that the page speaks of.

    Attributes:
        total: those on the map, held-out ones too; where the map is a sample, all training images.
        of_cluster: by number.
        other: in no cluster.
        sampled: the map shows a part of them.
    """

    total: int
    of_cluster: Mapping[int, int]
    other: int
    sampled: bool


def counts(data: ReportData) -> Counts:
    """Count the map, where every training image is on it; else what the fit counted."""
    numbers, found = np.unique(data.labels, return_counts=True)
    on_map = dict(zip(numbers.tolist(), found.tolist(), strict=True))
    shown = {c.id: on_map.get(c.id, 0) for c in data.clusters}
    sampled = len(data.ids) < data.images or any(shown[c.id] < c.size for c in data.clusters)
    total = data.images if sampled else len(data.ids)
    of_cluster = {c.id: c.size for c in data.clusters} if sampled else shown
    return Counts(total, of_cluster, max(0, total - sum(of_cluster.values())), sampled)
