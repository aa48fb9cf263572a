"""How a model continues its taxonomy, in a reader's words: the table of `fit`, the sheets of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from imgclust.model.taxonomy import MOST, Continuation, Continued, Part, Retired
from imgclust.tagging.table import plain
from imgclust.types import OTHER

NAME_CHARS = 28

Names = Mapping[int, str | None]


def table(found: Continuation, taxonomy: str, names: Names) -> Iterator[str]:
    """Lines for a terminal.

    Args:
        taxonomy: that is continued.
        names: of the model's clusters, by number.
    """
    names = _all_names(found, names)
    yield (
        f"taxonomy {taxonomy}, continued from model {plain(found.previous)}: {len(found.kept)} clusters "
        f"kept, {len(found.new)} new, {len(found.retired)} retired"
    )
    yield (
        "(kept: the two clusters share more than half of the images that are in either; "
        f"{found.images:,} were compared)"
    )
    groups: list[tuple[str, list[Continued] | list[Retired]]] = [
        ("kept", found.kept), ("new", found.new), ("retired", list(found.retired)),
    ]  # fmt: skip
    width = max((len(_short(names.get(c.number))) for _, rows in groups for c in rows), default=0)
    width = max(width, len("name"))
    yield f"  cluster  {'name':{width}}  overlap  trained on"
    for heading, rows in groups:
        if rows:
            yield f"  {heading}"
        for row in rows:
            name = _short(names.get(row.number))
            yield f"{row.number:9d}  {name:{width}}  {_sizes(row)}  {hint(row, names)}".rstrip()


def _short(name: str | None) -> str:
    text = plain(name or "")
    return text if len(text) <= NAME_CHARS else f"{text[: NAME_CHARS - 1]}…"


def _sizes(row: Continued | Retired) -> str:
    """Overlap and sizes, 24 characters wide."""
    if isinstance(row, Retired):
        return f"{'':7}  {row.size:6d} → {'–':6}"
    if row.overlap is None:
        return f"{'':7}  {'–':>6} → {row.size:<6d}"
    return f"{_share(row.overlap):>7}  {row.before:6d} → {row.size:<6d}"


def _all_names(found: Continuation, names: Names) -> dict[int, str | None]:
    """Names of clusters that are and of those that are retired."""
    return {**{cluster.number: cluster.name for cluster in found.retired}, **names}


def hint(cluster: Continued | Retired, names: Names) -> str:
    """Where most of a cluster's images came from, or went; empty if no part is large enough.

    Splits and mergers, as MONIC has them (Spiliopoulou et al., "MONIC: modeling and monitoring cluster
    transitions", 2006): most of a cluster in one other, or parts of it in several.
    """
    came = isinstance(cluster, Continued)
    parts = cluster.came if isinstance(cluster, Continued) else cluster.went
    if not parts:
        return "" if came else "scattered"
    clusters = [part for part in parts if part[0] != OTHER]
    nowhere = sum(share for number, share in parts if number == OTHER)
    if nowhere > MOST:
        return f"{_share(nowhere)} {'were in no cluster before' if came else 'are in no cluster now'}"
    if isinstance(cluster, Continued) and cluster.overlap is not None:
        verb = "also from"
    elif came:
        verb = "merged from" if len(clusters) > 1 else "split off" if _most(clusters) else "from"
    else:
        verb = "split into" if len(clusters) > 1 else "merged into" if _most(clusters) else "now in"
    shown = clusters + [part for part in parts if part[0] == OTHER]
    return f"{verb} {', '.join(_named(part, names) for part in shown)}"


def _most(clusters: list[Part]) -> bool:
    return bool(clusters) and clusters[0][1] > MOST


def _named(part: Part, names: Names) -> str:
    number, share = part
    name = f"#{number} {_short(names.get(number))}".rstrip() if number != OTHER else "no cluster"
    return f"{name} ({_share(share)})"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def sheets(found: Continuation, taxonomy: str, names: Names) -> Iterator[dict[str, Any]]:
    """Titles and rows, as `imgclust.report.figures.words` has them."""
    names = _all_names(found, names)
    yield {
        "title": "Taxonomy",
        "rows": [
            ["Continues", taxonomy],
            ["From model", found.previous],
            ["Clusters kept", f"{len(found.kept):,} of {len(found.kept) + len(found.retired):,}"],
            ["New", f"{len(found.new):,}"],
            ["Retired", f"{len(found.retired):,}"],
            ["Compared on", f"{found.images:,} pictures"],
        ],
    }
    kept = [(c, f"overlap {_share(c.overlap or 0)}, {c.before:,} → {c.size:,} pictures") for c in found.kept]
    new = [(c, f"{c.size:,} pictures") for c in found.new]
    retired = [(c, f"had {c.size:,} pictures") for c in found.retired]
    for title, rows in (("Clusters kept", kept), ("New clusters", new), ("Retired clusters", retired)):
        yield {"title": title, "rows": [_sheet_row(c, text, names) for c, text in rows]}


def _sheet_row(cluster: Continued | Retired, text: str, names: Names) -> list[str]:
    name, more = names.get(cluster.number), hint(cluster, names)
    line = f"{text}; {more}" if more else text
    return [f"#{cluster.number} {name or ''}".rstrip(), line.replace(" %", "\u00a0%")]


def tile(found: Continuation) -> tuple[str, str, str | None]:
    """Label, value and note for the top of the page."""
    before = len(found.kept) + len(found.retired)
    return "Kept", f"{len(found.kept):,} of {before:,}", f"clusters; {len(found.new):,} new"
