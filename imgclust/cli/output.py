"""What commands print: results on stdout, remarks on stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def note(text: str) -> None:
    """One line on stderr."""
    print(f"imgclust: {text}", file=sys.stderr)


def print_figures(figures: Mapping[str, Any], indent: str = "") -> None:
    """Figures as `name = value`, tables indented below their name; lists are left out."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            print(f"{indent}{name}:")
            print_figures(value, indent + "  ")
        elif not isinstance(value, list | tuple):
            print(f"{indent}{name} = {round(value, 4) if isinstance(value, float) else value}")
