"""What a report shows → the values that its script reads, packed so that 20,000 images stay light."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from imgclust.report.annotations import Note
from imgclust.report.counts import counts
from imgclust.report.data import TYPICAL, Facet, ReportData, facets
from imgclust.report.figures import words
from imgclust.report.palette import colours
from imgclust.report.selection import Selection, selections, wanted_order
from imgclust.types import OTHER

REASONS = {  # `imgclust.model.reasons.KINDS`, in the order in which the page lists them
    "between": (
        "Between clusters",
        "surrounded by as many pictures as in a cluster, but clearly in none",
    ),
    "thin": ("Thin", "few pictures are similar"),
    "novel": ("Novel", "unlike anything in training"),
}
TYPICAL_SHARE = 0.8  # of the room for pictures, which typical ones may take where there are others
MAX_ATTRIBUTES, MAX_ATTRIBUTE_CHARS = 8, 200  # of an image, beyond those that are filters
_STEPS = 65535  # places on the map are 16-bit
_UNKNOWN = 255  # an unknown probability; known ones are 0..254


def payload(data: ReportData) -> dict[str, Any]:
    """What the page's script reads (`1-data.js`), as values that JSON knows.

    Images are numbered: first those on the map, in its order, then typical ones that the map left out.
    """
    placed = set(data.ids)
    typical = {c.id: list(dict.fromkeys(c.exemplars))[:TYPICAL] for c in data.clusters}
    only_shown = {i: c for c, ids in typical.items() for i in ids if i not in placed}
    ids = [*data.ids, *only_shown]
    known = np.where(np.isin(data.labels, [c.id for c in data.clusters]), data.labels, OTHER)
    labels = np.concatenate([known, np.array(list(only_shown.values()), np.int32)]).astype("<i4")
    number = {image: i for i, image in enumerate(ids)}
    x, y, extent = _places(data)
    light_dark = _colours(data)
    found = facets(ids, data.notes)
    of_map = np.asarray(known, np.int32)
    chosen = selections(data.ids, of_map, data.notes)
    none = Selection((), ())
    pictures = _pictures(data, typical, wanted_order(data.ids, of_map, chosen))
    counted = counts(data)
    clusters = [
        {
            "id": c.id,
            "name": c.name,
            "stability": c.stability,
            "unsteady": c.unsteady,
            "size": counted.of_cluster[c.id],
            "trained": c.size,
            "group": c.group,
            "class": c.is_class,
            "pictures": [number[i] for i in typical[c.id]],
            "borderline": [number[i] for i in chosen.get(c.id, none).borderline],
            "random": [number[i] for i in chosen.get(c.id, none).random],
            "light": light_dark[c.id][0],
            "dark": light_dark[c.id][1],
        }
        for c in data.clusters
    ]
    return {
        "clusters": clusters,
        "groups": [{"id": number, "name": name} for number, name in data.groups.items()],
        "other": counted.other,
        "total": counted.total,
        "sampled": counted.sampled,
        "reasons": [{"label": label, "about": about} for label, about in REASONS.values()],
        "extent": extent,
        "images": {
            "ids": ids,
            "placed": len(data.ids),
            "x": _packed(x),
            "y": _packed(y),
            "cluster": _packed(labels),
            "probability": _packed(_probabilities(ids, data.notes)),
            "thumbs": [[number[i], _text(t)] for i, t in pictures.items()],
            "notes": _notes(ids, labels.tolist(), data.notes, found),
        },
        "facets": [_facet_json(f) for f in found],
        **words(data, pictures),
    }


def _packed(array: np.ndarray[Any, Any]) -> str:
    return _text(array.tobytes())


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _places(data: ReportData) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], dict[str, int]]:
    """Coordinates as 16-bit steps of the longer side, y downwards as a canvas has it."""
    if not len(data.ids):
        return np.zeros(0, "<u2"), np.zeros(0, "<u2"), {"width": _STEPS, "height": _STEPS}
    across, up = (np.nan_to_num(c, nan=0.0, posinf=0.0, neginf=0.0) for c in (data.x, data.y))
    span = max(float(np.ptp(across)), float(np.ptp(up))) or 1.0
    x = np.rint((across - across.min()) / span * _STEPS).astype("<u2")
    y = np.rint((up.max() - up) / span * _STEPS).astype("<u2")
    return x, y, {"width": max(int(x.max()), 1), "height": max(int(y.max()), 1)}


def _colours(data: ReportData) -> dict[int, tuple[str, str]]:
    by_size = sorted(data.clusters, key=lambda c: (-c.size, c.id))
    centres = np.zeros((len(by_size), 2))
    for row, cluster in enumerate(by_size):
        of_cluster = data.labels == cluster.id
        if of_cluster.any():
            centres[row] = np.median(data.x[of_cluster]), np.median(data.y[of_cluster])
    return {c.id: pair for c, pair in zip(by_size, colours(centres), strict=True)}


def _pictures(data: ReportData, typical: Mapping[int, list[str]], others: Iterable[str]) -> dict[str, bytes]:
    """The most typical picture of each cluster, then the second of each, and so on; then small ones."""
    by_rank = [ids[rank] for rank in range(TYPICAL) for ids in typical.values() if rank < len(ids)]
    room = data.picture_bytes
    chosen = _within(data.thumbnails, by_rank, int(TYPICAL_SHARE * room) if data.tiles else room)
    left = room - sum(map(len, chosen.values()))
    return chosen | _within(data.tiles, (image for image in others if image not in chosen), left)


def _within(pictures: Mapping[str, bytes], order: Iterable[str], room: int) -> dict[str, bytes]:
    """The first pictures in an order that together have at most `room` bytes."""
    chosen: dict[str, bytes] = {}
    for image in order:
        content = pictures.get(image, b"")
        if image in chosen or not (content[:4] == b"RIFF" and content[8:12] == b"WEBP"):
            continue
        room -= len(content)
        if room < 0:
            break
        chosen[image] = content
    return chosen


def _probabilities(ids: list[str], notes: Mapping[str, Note]) -> np.ndarray[Any, Any]:
    known = [note.probability if (note := notes.get(i)) else None for i in ids]
    return np.array([_UNKNOWN if p is None else round(p * 254) for p in known], np.uint8)


def _notes(
    ids: list[str], labels: Sequence[int], notes: Mapping[str, Note], found: list[Facet]
) -> list[list[Any]]:
    """[number, what is known beyond the probability] of each image of which something is."""
    places = {reason: place for place, reason in enumerate(REASONS)}
    filters = {facet.name for facet in found}
    rows: list[list[Any]] = []
    for i, image in enumerate(ids):
        if not (note := notes.get(image)):
            continue
        others = [[k, v[:MAX_ATTRIBUTE_CHARS]] for k, v in note.attributes.items() if k not in filters]
        known = {
            "novel": note.novel,
            "assigned": note.assigned,
            "candidates": [[c, round(s, 3)] for c, s in note.candidates],
            "attributes": others[:MAX_ATTRIBUTES],
        }
        known = {k: v for k, v in known.items() if v}
        if labels[i] == OTHER and note.reason in places:
            known["reason"] = places[note.reason]
        if known:
            rows.append([i, known])
    return rows


def _facet_json(facet: Facet) -> dict[str, Any]:
    return {"name": facet.name, "values": facet.values, "codes": _packed(facet.codes.astype("<u2"))}
