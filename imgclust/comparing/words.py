"""Clusters and shares as lines name them."""

from __future__ import annotations

from collections.abc import Mapping

from imgclust.tagging.table import plain
from imgclust.types import OTHER


def described(number: int, name: str | None) -> str:
    """A cluster with its number and name, safe for a terminal."""
    return "other" if number == OTHER else f"#{number} {plain(name or '')}".rstrip()


def named(number: int, names: Mapping[int, str | None]) -> str:
    """As `described`, by the names of a model's clusters."""
    return described(number, names.get(number))


def percent(share: float) -> str:
    """0.0374 → "3.7 %"."""
    return f"{100 * share:.1f} %"
