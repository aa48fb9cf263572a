"""What a fit leaves behind for the next process."""

from __future__ import annotations

import importlib

import numba
import pytest

from imgclust.training.umap_hdbscan import COMPILED, keep_compiled


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
