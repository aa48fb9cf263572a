"""What a layout leaves behind for the next process."""

from __future__ import annotations

import importlib

import numba
import numpy as np
import pytest

from imgclust.model.gallery import draw_map
from imgclust.placing.quick_umap import COMPILED, keep_compiled


@pytest.mark.parametrize(("module", "name"), COMPILED)
def test_compiled_functions_are_kept(module: str, name: str) -> None:
    """umap still has each of them, and numba has a folder for what it compiles of it."""
    keep_compiled()
    function = getattr(importlib.import_module(module), name)
    assert function.stats.cache_path is not None


def test_nothing_is_kept_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only installation of a user without a home folder fits as before."""

    def refuse(self: object) -> None:
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(numba.core.registry.CPUDispatcher, "enable_caching", refuse)
    keep_compiled()


def test_a_map_is_drawn_with_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process that does not fit, too: compiling takes ten times as long as drawing."""
    kept: list[str] = []
    monkeypatch.setattr("imgclust.placing.quick_umap.keep_compiled", lambda: kept.append("all"))
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    draw_map(rows, np.zeros(40, np.int32), [f"{i}" for i in range(40)], seed=0)
    assert kept == ["all"]
