"""Neighbours of points: those that comparing all pairs finds, whatever the blocks and the cores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from imgclust.placing import near_points


@pytest.mark.parametrize(("n", "count"), [(300, 9), (50, 50), (65, 1)])
def test_as_all_pairs_say(n: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
    pairs = cdist(points.astype(np.float64), points.astype(np.float64))
    monkeypatch.setattr(near_points, "BLOCK", 64)
    rows, distances = near_points.near_points(points, count)
    np.testing.assert_array_equal(rows, np.argsort(pairs, axis=1)[:, :count])
    np.testing.assert_allclose(distances, np.sort(pairs, axis=1)[:, :count], rtol=1e-12, atol=1e-12)
    assert rows.shape == distances.shape == (n, count)
