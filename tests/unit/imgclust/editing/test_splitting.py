"""A cluster's parts: found where its images lie densest, or as many as somebody asks for."""

from __future__ import annotations

import numpy as np
import pytest

from imgclust.editing.mapping import nearest
from imgclust.editing.splitting import ANCHORS, split_points
from imgclust.errors import ModelError


def blobs(*sizes: int) -> tuple[np.ndarray, np.ndarray]:
    """Points around as many centres, far apart, and which blob each is of."""
    rng = np.random.default_rng(0)
    blob = np.repeat(np.arange(len(sizes)), sizes)
    centres = 8 * np.eye(max(len(sizes), 3), 3)[: len(sizes)]
    return (centres[blob] + rng.normal(0, 0.5, (len(blob), 3))).astype(np.float32), blob


def owners(points: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    part = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    return part[nearest(points, np.concatenate(parts))]


def test_finds_the_parts_that_are_there() -> None:
    """Every point of a blob belongs to one part, and the largest part comes first."""
    points, blob = blobs(40, 120)
    parts = split_points(points)
    assert len(parts) == 2
    assert all(len(part) <= ANCHORS for part in parts)
    assert np.array_equal(owners(points, parts), 1 - blob)


def test_as_many_as_asked_for() -> None:
    points, blob = blobs(60, 50, 40)
    assert np.array_equal(owners(points, split_points(points, 3)), blob)
    assert len(split_points(points, 2)) == 2


def test_what_cannot_be_split() -> None:
    """Few images, one part, or no parts by density: each refusal says what to do."""
    points, _ = blobs(9)
    with pytest.raises(ModelError, match="too small to split: 10 are needed"):
        split_points(points)
    points, _ = blobs(30)
    with pytest.raises(ModelError, match="2 parts or more"):
        split_points(points, 1)
    with pytest.raises(ModelError, match="--into 2"):
        split_points(np.zeros((30, 3), np.float32), 2)
