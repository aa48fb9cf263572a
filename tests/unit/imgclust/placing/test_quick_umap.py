"""UMAP with a layout of our own, where there are many rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from imgclust.placing import quick_umap
from imgclust.training.parameters import Parameters
from imgclust.training.umap_hdbscan import fit_hdbscan, fit_umap
from tests.support.fitted import SMALL, grouped


def test_many_rows_are_laid_out_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As well as by umap-learn, with the same bits each time, and with word of how far it is."""
    monkeypatch.setattr(quick_umap, "OWN", 100)
    rows, group = grouped()
    p, told = Parameters.for_size(len(rows)).replaced(SMALL), []
    one, two = (fit_umap(rows, p, told.append).embedding_ for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert adjusted_mutual_info_score(group, fit_hdbscan(one, p).labels_) > 0.9
    assert len(told) >= 10
    assert max(told) < 1
