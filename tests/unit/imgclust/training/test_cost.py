"""What a fit will cost is said, and refused, before its long part begins."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from imgclust.errors import FitError
from imgclust.training import cost as cost_module
from imgclust.training import fit as fit_module
from imgclust.training.cost import affordable, estimate
from imgclust.training.fit import fit
from imgclust.training.parameters import Parameters
from tests.support import fitted


def test_what_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is compared with what is there before the long part begins."""
    monkeypatch.setattr(cost_module, "available_memory", lambda: 1_000_000)
    monkeypatch.setattr(fit_module, "group", lambda *_: pytest.fail("the fit was begun"))
    with pytest.raises(FitError, match=r"needs about 1\.\d GB.*max_train, now 240"):
        fit(fitted.grouped()[0])


def test_estimate_counts_hdbscan() -> None:
    """HDBSCAN at min_samples 1000 takes 17 KB an image; the recipe at 150,000 fits into 24 GB."""
    p = Parameters.of_recipe("article", 150_000)
    once = estimate(150_000, 512, 150_000, p).memory
    twice = estimate(150_000, 512, 150_000, dataclasses.replace(p, min_samples=2000)).memory
    assert twice - once == pytest.approx(150_000 * 1000 * 17, rel=0.01)
    assert 150_000 * 1000 * 17 < once < 24e9


def test_refits_are_counted_and_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many at a time as there are cores, and memory, for, where that is faster."""
    p = Parameters.for_size(9000)
    alone = dataclasses.replace(p, consensus=0)
    seconds = [estimate(9000, 512, 9000, p, processes).seconds for processes in (1, 2, 6)]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[-1] > estimate(9000, 512, 9000, alone).seconds
    rows = np.empty((9000, 512), np.float32)
    monkeypatch.setattr(cost_module, "available_cores", lambda: 16)
    assert (affordable(9000, rows, p).processes, affordable(9000, rows, alone).processes) == (12, 0)
    most = estimate(9000, 512, 9000, p, 3).memory - rows.nbytes
    monkeypatch.setattr(cost_module, "available_memory", lambda: most)
    assert affordable(9000, rows, p).processes == 3
    few = dataclasses.replace(Parameters.for_size(300), consensus=6)
    assert affordable(300, rows, few).processes == 1  # done before another has started
