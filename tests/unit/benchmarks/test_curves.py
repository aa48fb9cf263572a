"""The embeddings that fits are measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import curves
from imgclust.embedding.store import read_embeddings


def test_made_up_embeddings_are_read_as_real_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of different rows, of unit length; the same again."""
    monkeypatch.setattr(curves, "SHARD", 80)
    for name in ("one", "two"):
        curves.write_embeddings(tmp_path / name, 200)
    one, two = (read_embeddings(tmp_path / name) for name in ("one", "two"))
    assert len(set(one.ids)) == len(np.unique(one.vectors, axis=0)) == 200
    assert np.abs(np.linalg.norm(one.vectors, axis=1) - 1).max() < 1e-3
    np.testing.assert_array_equal(one.vectors, two.vectors)
