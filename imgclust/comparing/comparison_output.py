"""A comparison for people and programs: lines, records for a CSV file, JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from imgclust.comparing.compare import GONE, KEPT, MERGED, NEW, SPLIT, ClusterFate, Comparison, Flow
from imgclust.comparing.words import described, named, percent
from imgclust.model.taxonomy import WORTH_A_WORD, Continued, Part, Retired
from imgclust.report.taxonomy import hint
from imgclust.support.tables import utf8
from imgclust.tagging.table import plain

COLUMNS = ("what", "before", "before_name", "after", "after_name", "images", "share", "id")
MOVES = "moves"


def lines(found: Comparison) -> Iterator[str]:
    """For a terminal: the shares, the clusters by what became of them, images that move."""
    before, after = (percent(other / found.images) for other in found.other)
    yield (
        f"{found.moved:,} of {found.images:,} images ({percent(found.moved_share)}) move; "
        f"in no cluster: {before} before, {after} after"
    )
    yield (
        "clusters of the same number are the same: both models have one taxonomy"
        if found.by_number
        else "clusters count as the same if they share more than half of the images that are in either"
    )
    fates = [*found.before, *found.new]
    known = [fate for fate in (KEPT, SPLIT, MERGED, GONE, NEW) if any(f.fate == fate for f in fates)]
    for heading in known:
        group = [fate for fate in fates if fate.fate == heading]
        yield f"{heading} ({len(group)})"
        for fate in group:
            who = f"{described(fate.number, fate.name)}  {fate.images:,} images"
            yield f"  {who}  {_what(fate, found)}".rstrip()
    empty = [f"#{fate.number}" for fate in fates if not fate.flows]
    if empty:
        yield f"without an image among those compared: {', '.join(empty)}"
    if found.examples:
        yield f"images that move ({len(found.examples):,} of {found.moved:,})"
    for image in found.examples:
        old, new = named(image.before, found.names[0]), named(image.after, found.names[1])
        yield f"  {plain(image.id)}  {old} → {new}"


def _what(fate: ClusterFate, found: Comparison) -> str:
    parts: tuple[Part, ...] = tuple((f.cluster, f.share) for f in fate.flows if f.share >= WORTH_A_WORD)
    if fate.same is not None:
        stays = sum(flow.share for flow in fate.flows if flow.cluster == fate.same)
        return f"→ {named(fate.same, found.names[1])}" + (f" ({percent(stays)})" if fate.flows else "")
    if fate.fate == NEW:
        return hint(Continued(fate.number, fate.images, None, None, parts), found.names[0])
    return hint(Retired(fate.number, fate.name, fate.images, parts), found.names[1])


def records(found: Comparison) -> list[dict[str, Any]]:
    """Rows with `COLUMNS`: for each cluster its parts in the other model, then images that move."""
    rows = [
        _row(fate.fate, _pair(fate.number, _cluster(flow), found), flow)
        for fate in found.before
        for flow in fate.flows or (None,)
    ]
    rows += [
        _row(fate.fate, _pair(_cluster(flow), fate.number, found), flow)
        for fate in found.new
        for flow in fate.flows or (None,)
    ]
    rows += [_row(MOVES, _pair(i.before, i.after, found), None, i.id) for i in found.examples]
    return rows


def _row(what: str, pair: dict[str, Any], flow: Flow | None, image: str | None = None) -> dict[str, Any]:
    images, share = (None, None) if flow is None else (flow.images, round(flow.share, 4))
    return {"what": what, **pair, "images": images, "share": share, "id": image}


def _cluster(flow: Flow | None) -> int | None:
    return None if flow is None else flow.cluster


def _pair(before: int | None, after: int | None, found: Comparison) -> dict[str, Any]:
    old, new = found.names
    return {
        "before": before,
        "before_name": None if before is None else old.get(before),
        "after": after,
        "after_name": None if after is None else new.get(after),
    }


def as_json(found: Comparison) -> dict[str, Any]:
    """All of it, as JSON's types; -1 is "other"."""
    return {
        "images": found.images,
        "moved": found.moved,
        "moved_share": round(found.moved_share, 6),
        "other": dict(zip(("before", "after"), found.other, strict=True)),
        "same_clusters": "by number" if found.by_number else "by images",
        "clusters": [_fate(fate, found.names[1]) for fate in found.before],
        "new": [_fate(fate, found.names[0]) for fate in found.new],
        "moves": [{"id": utf8(i.id), **_pair(i.before, i.after, found)} for i in found.examples],
    }


def _fate(fate: ClusterFate, names: dict[int, str | None]) -> dict[str, Any]:
    parts = [
        {
            "cluster": flow.cluster, "name": names.get(flow.cluster), "images": flow.images,
            "share": round(flow.share, 6),
        }
        for flow in fate.flows
    ]  # fmt: skip
    same = {} if fate.same is None else {"same": fate.same}
    about = {"cluster": fate.number, "name": fate.name, "images": fate.images, "fate": fate.fate}
    return {**about, **same, "parts": parts}
