"""Clusters and shares as lines name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from imgclust.editing.golden import AddGolden
from imgclust.editing.golden_check import BrokenGolden
from imgclust.tagging.table import plain
from imgclust.types import OTHER

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel


def described(number: int, name: str | None) -> str:
    """A cluster with its number and name, safe for a terminal."""
    return "other" if number == OTHER else f"#{number} {plain(name or '')}".rstrip()


def named(number: int, names: Mapping[int, str | None]) -> str:
    """As `described`, by the names of a model's clusters."""
    return described(number, names.get(number))


def names_of(model: ClusterModel) -> dict[int, str | None]:
    """Number → name of a model's clusters and classes."""
    return {cluster.id: cluster.name for cluster in model.clusters}


def wanted_place(golden: AddGolden, names: Mapping[int, str | None]) -> str:
    """Where a golden image must be, or must not."""
    where = " or ".join(named(cluster, names) for cluster in golden.clusters)
    return f"must {'not be' if golden.never else 'be'} in {where}"


def golden_text(broken: BrokenGolden, names: Mapping[int, str | None]) -> str:
    """A golden image that a model breaks, with where it is and where it must be."""
    is_in = named(broken.label, names)
    return f"{plain(broken.golden.image)} is in {is_in}, and {wanted_place(broken.golden, names)}"


def percent(share: float) -> str:
    """0.0374 → "3.7 %"."""
    return f"{100 * share:.1f} %"
