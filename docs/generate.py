"""Writes the tables of README.md that come from the code: `make docs`. A test fails when they are stale."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from worker.settings.table import settings_table
from worker.telemetry.metrics import metrics_table

ROOT = Path(__file__).resolve().parents[1]
TABLES: dict[str, Callable[[], str]] = {"settings": settings_table, "metrics": metrics_table}


def render(text: str) -> str:
    """The text with each table between `<!-- name -->` and `<!-- /name -->` made anew."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, count = re.subn(pattern, lambda m, t=table: m[1] + t().strip() + "\n" + m[2], text, flags=re.S)
        if count != 1:
            raise SystemExit(f"README.md must have one place for the table {name!r}, has {count}")
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(render(readme.read_text()))
