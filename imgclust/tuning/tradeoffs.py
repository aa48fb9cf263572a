"""What a search found, as a table and as a page: each trial a dot, the best compromises filled."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from imgclust.support.tables import write_whole
from imgclust.tuning.aims import Aim, best_compromises
from imgclust.tuning.tune import TuningTrial

COLUMNS = (
    "trial", "score", "clusters", "other", "stability", "validity", "ami", "compromise", "n_neighbors",
    "n_components", "min_dist", "min_cluster_size", "min_samples",
)  # fmt: skip
SHOWN = 12
SIDE, MARGIN = 300, 52  # pixels of a plot, and of its edges
AXES: tuple[tuple[str, str], ...] = (
    ("clusters", "other"), ("clusters", "stability"), ("other", "stability"), ("other", "validity"),
    ("clusters", "ami"), ("other", "ami"),
)  # fmt: skip

_CSS = """
:root { color-scheme: light dark; --line: #98a2b3; --best: #0b7a75; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1040px; padding: 20px 16px 60px; }
h1 { font-size: 24px; }
section { display: flex; flex-wrap: wrap; gap: 16px; }
svg { border: 1px solid var(--line); border-radius: 8px; }
text { fill: CanvasText; font-size: 12px; }
line { stroke: var(--line); }
circle { fill: none; stroke: var(--line); stroke-width: 1.5; }
circle.good { fill: var(--best); stroke: var(--best); }
circle.best { fill: #d92d20; stroke: #d92d20; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin-top: 20px; font-variant-numeric: tabular-nums; }
td, th { padding: 3px 10px; text-align: right; border-bottom: 1px solid var(--line); }
"""


def records(trials: Sequence[TuningTrial], aims: Sequence[Aim]) -> list[dict[str, Any]]:
    """A row with `COLUMNS` for each trial, the best first."""
    good = best_compromises(aims, [trial.figures for trial in trials])
    return [
        {
            "trial": trial.number, "score": round(trial.score, 4), **trial.figures.to_dict(),
            "compromise": compromise,
            **{name: getattr(trial.parameters, name) for name in COLUMNS[8:]},
        }
        for trial, compromise in zip(trials, good, strict=True)
    ]  # fmt: skip


def lines(trials: Sequence[TuningTrial], aims: Sequence[Aim]) -> Iterator[str]:
    """For a terminal: the best trials; `*` marks compromises, as `best_compromises` has them."""
    yield " trial   score  clusters  other  stability  validity    AMI  min_cluster_size  min_samples  UMAP"
    for row in records(trials, aims)[:SHOWN]:
        mark = "*" if row["compromise"] else " "
        ami = "–" if row["ami"] is None else f"{row['ami']:.3f}"
        umap = f"{row['n_neighbors']} neighbours, {row['n_components']} d, {row['min_dist']:g}"
        yield (
            f"{mark}{row['trial']:5}  {row['score']:6.3f}  {row['clusters']:8}  {row['other']:5.1%}  "
            f"{row['stability']:9.3f}  {row['validity']:8.3f}  {ami:>5}  {row['min_cluster_size']:16}  "
            f"{row['min_samples']:11}  {umap}"
        )


def write_page(path: Path, trials: Sequence[TuningTrial], aims: Sequence[Aim]) -> None:
    """Write the page. Raises ImgclustError if it cannot be written."""
    write_whole(path, page(trials, aims).encode())


def page(trials: Sequence[TuningTrial], aims: Sequence[Aim]) -> str:
    """One offline page; a pure function of its arguments."""
    rows = records(trials, aims)
    digest = base64.b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    known = [name for name in ("clusters", "other", "stability", "validity", "ami") if _has(rows, name)]
    plots = "".join(_plot(rows, x, y) for x, y in AXES if x in known and y in known)
    wanted = html.escape(", ".join(map(str, aims)))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">'
        f"<title>Trade-offs</title><style>{_CSS}</style></head>"
        f"<body><h1>Trade-offs of {len(rows)} trials</h1>"
        f"<p>Aims: {wanted}. Each dot is a trial. Filled: no other trial is better for one of the aims "
        "without being worse for another. Red: the best score, in best.toml.</p>"
        f"<section>{plots}</section>{_table(rows)}</body></html>\n"
    )


def _has(rows: Sequence[dict[str, Any]], name: str) -> bool:
    return any(row[name] is not None for row in rows)


def _plot(rows: Sequence[dict[str, Any]], x: str, y: str) -> str:
    to_x, to_y = (_scale([row[name] for row in rows]) for name in (x, y))
    inner = SIDE - 2 * MARGIN

    def dot(place: int, row: dict[str, Any]) -> str:
        kind = "best" if place == 0 else "good" if row["compromise"] else ""
        left, top = MARGIN + inner * to_x(row[x]), SIDE - MARGIN - inner * to_y(row[y])
        about = f"trial {row['trial']}: {x} {_text(x, row[x])}, {y} {_text(y, row[y])}"
        return f'<circle class="{kind}" cx="{left:.1f}" cy="{top:.1f}" r="4"><title>{about}</title></circle>'

    dots = "".join(dot(place, row) for place, row in reversed(list(enumerate(rows))))
    low, high = MARGIN, SIDE - MARGIN
    ends = "".join(
        f'<text x="{left}" y="{high + 16}" text-anchor="middle">{_text(x, value)}</text>'
        for left, value in zip((low, high), _range([row[x] for row in rows]), strict=True)
    ) + "".join(
        f'<text x="{low - 6}" y="{top + 4}" text-anchor="end">{_text(y, value)}</text>'
        for top, value in zip((high, low), _range([row[y] for row in rows]), strict=True)
    )
    return (
        f'<svg width="{SIDE}" height="{SIDE}" role="img" aria-label="{x} and {y}">'
        f'<line x1="{low}" y1="{high}" x2="{high}" y2="{high}"/>'
        f'<line x1="{low}" y1="{low}" x2="{low}" y2="{high}"/>'
        f'{ends}<text x="{SIDE / 2}" y="{SIDE - 8}" text-anchor="middle">{x}</text>'
        f'<text x="{low}" y="{low - 14}" text-anchor="middle">{y}</text>{dots}</svg>'
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _scale(values: Sequence[float]) -> Callable[[float], float]:
    low, high = _range(values)
    return lambda value: (value - low) / (high - low) if high > low else 0.5


def _text(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name == "other":
        return f"{value:.1%}"
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(name, row[name])}</td>" for name in COLUMNS) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
