"""The map of an edited model: which training image each row is, and which cluster it belongs to now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imgclust.editing.mapping import EditMap, nearest
from imgclust.model.folder import MAP_ROWS
from imgclust.types import OTHER, Floats, Ints

if TYPE_CHECKING:
    import pyarrow as pa

Rows = npt.NDArray[np.int64]


def map_rows(shown: int, total: int, seed: int | None) -> Rows:
    """int64 (shown,), ascending: which of `total` images the map shows; the training images come first."""
    rows = np.arange(total)
    if total > MAP_ROWS:
        rows = np.sort(np.random.default_rng(seed).permutation(total)[:MAP_ROWS])
    return rows[:shown]


def training_rows(clusters: Ints, labels: Ints, total: int, seed: int | None) -> Rows:
    """The training row of each row of the map; −1: a held-out image, or not known.

    Args:
        clusters: int32 (m,), of the map's rows, as they were fitted.
        labels: int32 (n,), of the training rows, in the same numbers.
        total: training and held-out images together.
    """
    rows = map_rows(len(clusters), total, seed)
    own = rows < len(labels)
    # a folder may come from anywhere: what does not agree with the arrays is not believed
    if len(rows) != len(clusters) or not np.array_equal(clusters[own], labels[rows[own]]):
        return np.full(len(clusters), -1)
    return np.where(own, rows, -1)


def relabelled(table: pa.Table, rows: Rows, numbers: Ints, edits: EditMap, points: Floats) -> pa.Table:
    """The map with the clusters that people see.

    A held-out image has no point in the model: where its cluster was split, it goes with the training image
    of that cluster that is drawn nearest to it.

    Args:
        table: (id, x, y, cluster), clusters as fitted.
        rows: of `training_rows`.
        numbers: int32 (k,): of the fitted clusters.
        points: float32 (n, d): of the training rows.
    """
    clusters = np.asarray(table.column("cluster"), np.int32)
    places = _places(clusters, numbers)
    plane = np.stack([np.asarray(table.column(axis), np.float32) for axis in ("x", "y")], axis=1)
    stand_in = rows.copy()
    for place in np.unique(places[places >= 0]).tolist():
        known, unknown = ((places == place) & held for held in (rows >= 0, rows < 0))
        if known.any() and unknown.any():
            stand_in[unknown] = rows[known][nearest(plane[unknown], plane[known])]
    labels = edits.labels(places, points[np.maximum(stand_in, 0)])
    import pyarrow as pa

    return table.set_column(table.column_names.index("cluster"), "cluster", pa.array(labels, pa.int32()))


def of_training(table: pa.Table, rows: Rows, labels: Ints) -> pa.Table:
    """The map with the labels of the training images where a row is one; others keep theirs.

    Args:
        rows: of `training_rows`.
        labels: int32 (n,): of the training rows.
    """
    import pyarrow as pa

    clusters = np.asarray(table.column("cluster"), np.int32)
    shown = np.where(rows >= 0, labels[np.maximum(rows, 0)], clusters).astype(np.int32)
    return table.set_column(table.column_names.index("cluster"), "cluster", pa.array(shown, pa.int32()))


def _places(clusters: Ints, numbers: Ints) -> Ints:
    place = {number: i for i, number in enumerate(numbers.tolist())}
    return np.array([place.get(number, OTHER) for number in clusters.tolist()], np.int32)


def total_images(rows: int, figures: Mapping[str, Any]) -> int:
    """Training images (`rows`) and held-out ones together, as far as the figures know."""
    test = figures.get("test")
    held_out = test.get("images") if isinstance(test, Mapping) else None
    return rows + (held_out if isinstance(held_out, int) and held_out > 0 else 0)
