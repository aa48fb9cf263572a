"""The package's own names: found by completion, loaded on first use, the same objects as at home."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import imgclust


def test_offers_what_people_need() -> None:
    """`dir` lists every name, and each is the object of the module that defines it."""
    offered = {name for name in dir(imgclust) if not name.startswith("_")}
    assert {"ClusterModel", "embed", "fit", "load_encoder", "read_embeddings", "write_report"} <= offered
    for name in offered:
        home = imgclust._HOME[name]
        assert getattr(imgclust, name) is getattr(import_module(home), name)


def test_names_are_not_modules() -> None:
    """A wing called like a function would take its place once somebody imports it."""
    for name in imgclust._HOME:
        with pytest.raises(ModuleNotFoundError):
            import_module(f"imgclust.{name}")


def test_costs_nothing() -> None:
    """Importing the package and completing its names load no library."""
    code = (
        "import sys, imgclust; dir(imgclust)\n"
        "assert not {'numpy', 'torch', 'pyarrow', 'umap', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Fit'; it offers ClusterModel"):
        imgclust.Fit  # noqa: B018
