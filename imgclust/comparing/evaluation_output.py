"""An evaluation for people and programs: lines, records for a CSV file, JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from imgclust.comparing.evaluate import Evaluation
from imgclust.comparing.words import described, golden_text, percent
from imgclust.model.drift import PARTS, Drift
from imgclust.report.figures import label, shown
from imgclust.support.tables import utf8
from imgclust.tagging.table import plain

COLUMNS = ("cluster", "name", "label", "images", "share")
SHOWN = 5  # labels of a cluster, in lines


def lines(found: Evaluation) -> Iterator[str]:
    """For a terminal: the figures, then the labels of each cluster, the most frequent first."""
    purity = "–" if found.purity is None else percent(found.purity)
    yield f"{found.images:,} labelled images; {found.unlabelled:,} without a label"
    yield f"AMI {found.ami:.3f}   purity {purity}   other {percent(found.other)}"
    for cluster in found.clusters:
        counts = list(cluster.labels.items())
        texts = [f"{plain(name)} {count:,}" for name, count in counts[:SHOWN]]
        if more := sum(count for _, count in counts[SHOWN:]):
            labels = len(counts) - SHOWN
            texts.append(f"{labels} other label{'s' if labels > 1 else ''} {more:,}")
        pure = f"  {percent(cluster.purity)} pure" if cluster.images else ""
        who = described(cluster.number, cluster.name)
        yield f"  {who}  {cluster.images:,} images{pure}  {', '.join(texts)}".rstrip()
    if found.drift is not None and found.drift.tally.images:
        yield from _drift(found.drift, {cluster.number: cluster.name for cluster in found.clusters})
    if found.golden:
        yield f"{found.golden - len(found.broken)} of {found.golden} golden images are where they must be"
        names = {cluster.number: cluster.name for cluster in found.clusters}
        yield from (f"  {golden_text(one, names)}" for one in found.broken)
    if found.held_out:
        yield "held out when the model was fitted"
        for key, value in found.held_out.items():
            if not isinstance(value, Mapping | list | tuple):
                yield f"  {label(key)}: {shown(key, value)}"
    else:
        yield "no images were held out when the model was fitted"


def _drift(drift: Drift, names: Mapping[int, str | None]) -> Iterator[str]:
    """Verdicts with their stability indices, and the clusters that grew or shrank most, where some did."""
    known = [part for part in PARTS if math.isfinite(drift.index[part])]
    texts = ", ".join(f"{part} {drift.verdict(part)} ({drift.index[part]:.2f})" for part in known)
    yield (
        f"drift of {drift.tally.images:,} images that were not trained on, "
        f"against {drift.reference.images:,} held-out ones: {texts}"
    )
    if drift.verdict("clusters") != "steady":
        for cluster, before, now in drift.moved()[:SHOWN]:
            yield f"  {described(cluster, names.get(cluster))}  {percent(before)} → {percent(now)}"


def records(found: Evaluation) -> list[dict[str, Any]]:
    """The confusion: a row with `COLUMNS` for each label of each cluster; shares are of the cluster."""
    return [
        {
            "cluster": cluster.number, "name": cluster.name, "label": name, "images": count,
            "share": round(count / cluster.images, 4),
        }
        for cluster in found.clusters
        for name, count in cluster.labels.items()
    ]  # fmt: skip


def as_json(found: Evaluation) -> dict[str, Any]:
    """All of it, as JSON's types; -1 is "other"."""
    return {
        "images": found.images,
        "unlabelled": found.unlabelled,
        "unknown_ids": found.unknown,
        "ami": round(found.ami, 6),
        "purity": None if found.purity is None else round(found.purity, 6),
        "other": round(found.other, 6),
        "clusters": [
            {
                "cluster": cluster.number, "name": cluster.name, "images": cluster.images,
                "purity": round(cluster.purity, 6) if cluster.images else None,
                "labels": {utf8(name): count for name, count in cluster.labels.items()},
            }
            for cluster in found.clusters
        ],
        "held_out": dict(found.held_out),
        "drift": None if found.drift is None else {
            part: {"index": round(found.drift.index[part], 6), "verdict": found.drift.verdict(part)}
            for part in PARTS
            if math.isfinite(found.drift.index[part])
        },
        "golden": {
            "images": found.golden,
            "broken": [
                {
                    "id": utf8(one.golden.image), "cluster": one.label,
                    "must_not" if one.golden.never else "must": list(one.golden.clusters),
                }
                for one in found.broken
            ],
        },
    }  # fmt: skip
