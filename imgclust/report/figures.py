"""A model's figures and parameters in a reader's words: the headline, the tiles, the tables of a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from imgclust.editing.log import Edit, described
from imgclust.editing.rules import classes_of
from imgclust.report import taxonomy
from imgclust.report.counts import Counts, counts
from imgclust.report.data import ReportData
from imgclust.report.drift import sheets as drift_sheets
from imgclust.report.drift import tile as drift_tile

_GROUPS = {"train": "Trained on", "test": "Held out", "rest": "Neither"}
_SHARES = ("share", "other", "novel", "agreement", "rate")
_LABELS = {
    "umap": "UMAP", "hdbscan": "HDBSCAN", "ami": "AMI", "nmi": "NMI", "ari": "ARI", "dbcv": "DBCV",
}  # fmt: skip


def _edits(log: Sequence[Edit]) -> list[list[str]]:
    """When and who, and what; the last edit first."""
    rows = [
        [f"{edit.when[:10]} {edit.who}", line + " (carried over)" * edit.carried]
        for edit, line in zip(log, described(log), strict=True)
    ]
    return rows[::-1]


def _classes(data: ReportData) -> list[list[str]]:
    """Number and name, and how well the class is told from other images."""
    names = {cluster.id: cluster.name for cluster in data.clusters}
    rows = []
    for one in classes_of(data.edits):
        made, found = one.rule.phrase, one.rule.measured
        of = f"phrase \u201c{made}\u201d" if made else f"{len(one.rule.vectors)} examples"
        presumed = "" if found.labelled else ", if no other image shows it"
        text = f"precision {found.precision:.2f}, recall {found.recall:.2f}{presumed}; made of {of}"
        rows.append([f"#{one.number} {names.get(one.number) or one.name}", text])
    return rows


def label(key: str) -> str:
    """A key of the manifest as a reader would write it: `other_share_test` → "Other share test"."""
    words = [_LABELS.get(word, word) for word in key.replace("-", "_").split("_")]
    text = " ".join(words).strip()
    return text[:1].upper() + text[1:]


def shown(key: str, value: Any) -> str:
    """A figure as a reader would write it; shares as per cent."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if any(word in key for word in _SHARES) and 0 <= value <= 1:
            return f"{100 * value:.1f} %"
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(shown(key, item) for item in value)
    return str(value)


def _rows(values: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """Label and text of each figure: groups last, under their own label; long lists are left out."""
    rows: list[list[str]] = []
    for key, value in sorted(values.items(), key=lambda item: isinstance(item[1], Mapping)):
        heading = _GROUPS.get(key) or label(key)
        if isinstance(value, Mapping):
            rows += _rows(value, f"{prefix}{heading}: ")
        elif not isinstance(value, list | tuple) or (len(value) <= 4 and not any(map(_nested, value))):
            inner = heading[:1].lower() + heading[1:] if prefix and heading[1:].islower() else heading
            rows.append([prefix + inner, shown(key, value)])
    return rows


def _nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _parameters(values: Mapping[str, Any]) -> list[list[str]]:
    """As code spells them, so that they can be typed again."""
    return [[key, _literal(value)] for key, value in values.items() if not _nested(value)]


def _literal(value: Any) -> str:
    exact = json.dumps(value)
    return f"{value:.6g}" if isinstance(value, float) and len(exact) > 8 else exact


def _encoder(encoder: Mapping[str, Any]) -> list[list[str]]:
    """An identity, its digest shortened; nothing where the model does not know its encoder."""
    if not encoder:
        return []
    return _rows({**encoder, "weights": f"SHA-256 {str(encoder.get('weights'))[:12]}…"})


def _tiles(data: ReportData, counted: Counts) -> list[dict[str, str | None]]:
    """The few figures that stand at the top; what the fit did not measure is left out."""

    def figure(*path: str) -> Any:
        value: Any = data.figures
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value if isinstance(value, int | float) else None

    total, other = counted.total, counted.other
    ami, same = figure("test", "ami"), figure("predicted_as_fitted", "share")
    tiles: list[tuple[str, str, str | None]] = [
        ("Pictures", f"{total:,}", _trained(data.images, total, figure("images"))),
        ("Clusters", f"{len(data.clusters):,}", None),
        (
            "In no cluster",
            shown("share", other / total if total else 0.0),
            f"{other:,} picture{'s' * (other != 1)}",
        ),
    ]
    if ami is not None:
        tiles.append(("AMI", shown("ami", ami), "with the categories, held out"))
    if same is not None:
        tiles.append(("Stable", shown("share", same), "predicted as fitted"))
    if data.continuation:
        tiles.append(taxonomy.tile(data.continuation))
    if data.drift:
        tiles.append(drift_tile(data.drift))
    return [{"label": heading, "value": value, "note": note} for heading, value, note in tiles]


def _trained(trained: int, total: int, given: int | None) -> str | None:
    """How many of the pictures the model was trained on."""
    if total > trained:
        return f"{trained:,} trained on, {total - trained:,} held out"
    return f"trained on, of {given:,}" if given else None


def _pictures(data: ReportData, pictures: Mapping[str, bytes]) -> list[list[str]]:
    """How many images have a picture here, and what these take of the page."""
    taken = sum(map(len, pictures.values())) * 4 / 3
    placed = sum(image in pictures for image in data.ids)
    return [
        ["On the map, with a picture", f"{placed:,} of {len(data.ids):,}"],
        ["Their bytes in the page", f"{taken / 1e6:.1f} MB; at most {data.budget / 1e6:g} MB"],
    ]


def words(data: ReportData, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    """All texts of the page that are not names: `lede`, `tiles`, `sections`, `colophon`.

    Args:
        pictures: image id → WebP, of those that the page has.
    """
    counted = counts(data)
    total = counted.total
    largest = [c.name for c in sorted(data.clusters, key=lambda c: -counted.of_cluster[c.id])]
    named = [name for name in largest if name][:3]
    lede = f"{total:,} pictures, grouped by what they show into {len(data.clusters):,} clusters"
    if named:
        which = "the largest are" if named == largest[: len(named)] else "among them"
        lede += f"; {which} {', '.join(named[:-1])}{' and ' if named[:-1] else ''}{named[-1]}"
    names = {c.id: c.name for c in data.clusters if c.name}
    sections = [
        *(drift_sheets(data.drift, names) if data.drift else ()),
        *(taxonomy.sheets(data.continuation, data.taxonomy, names) if data.continuation else ()),
        {"title": "Classes", "rows": _classes(data)},
        *([{"title": "Edits by hand", "rows": _edits(data.edits)}] if data.edits else ()),
        {"title": "Training", "rows": _rows(data.figures)},
        {"title": "Pictures", "rows": _pictures(data, pictures)},
        *({"title": title, "rows": _parameters(values)} for title, values in data.parameters.items()),
        {"title": "Encoder", "rows": _encoder(data.encoder)},
        {
            "title": "Model",
            "rows": _rows({"version": data.version, "taxonomy": data.taxonomy, "created": data.created}),
        },
        {"title": "Libraries", "rows": [[name, version] for name, version in data.libraries.items()]},
    ]
    return {
        "lede": lede + ".",
        "tiles": _tiles(data, counted),
        "sections": [s for s in sections if s["rows"]],
        "colophon": f"Model {data.version}. Made by imgclust; this page is self-contained and loads nothing.",
    }
