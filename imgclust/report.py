"""A model → one HTML page that works offline: map, clusters with their pictures, figures.

The page is one file and loads nothing: styles, script, data and pictures are inside, and a content
security policy of hashes forbids the rest. Names and ids come from strangers; they travel as JSON and
reach the page as text nodes. The same model gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgclust.errors import ImgclustError
from imgclust.palette import colours
from imgclust.report_data import OTHER, TYPICAL, Facet, Note, ReportData, facets, from_model

if TYPE_CHECKING:
    from imgclust.model import ClusterModel

# Base64 makes 4 of 3: (9 MB + 1,500 × 1,250 bytes) × 4/3 = 14.5 MB, and all else of 1,500 images is 0.3 MB.
MAX_THUMBNAIL_BYTES = 9_000_000
MAX_TILE_BYTES = 1_250  # for each image, on average; clip-art of 48 px has 400
MAX_ATTRIBUTES, MAX_ATTRIBUTE_CHARS = 8, 200  # of an image, beyond those that are filters
_STEPS = 65535  # places on the map are 16-bit
_UNKNOWN = 255  # a probability that nobody told us; known ones are 0..254

_SCRIPTS = ("1-data.js", "2-map.js", "3-views.js", "4-app.js")


def write_report(
    model: ClusterModel | Path | str,
    path: Path | str,
    *,
    tags: Path | str | None = None,
    images: Path | str | None = None,
    title: str | None = None,
) -> Path:
    """Write the report of a model as one HTML file.

    Args:
        model: a loaded model, or its folder.
        path: where the page goes; an existing file is replaced once the new page is complete.
        tags: predictions (`imgclust predict -o`) or tags of the images on the map, as CSV, JSON lines or
            Parquet: they add probabilities, candidates and attributes to filter by. An embeddings folder is
            taken as `images`.
        images: the embeddings folder that the model was fitted on. It adds the attributes, what the model
            says of held-out images, and a small picture of each image on the map whose file is still there;
            without it only typical pictures are shown.
        title: the page's heading; by default the model's version.

    Returns:
        The page's path.

    Raises:
        ModelError: the model folder is damaged.
        EmbeddingsError: the images are another encoder's.
        ImgclustError: the tags or embeddings cannot be read, or the page cannot be written.
    """
    if isinstance(model, Path | str):
        from imgclust.model import ClusterModel

        model = ClusterModel.load(model)
    if tags and Path(tags).is_dir():  # an embeddings folder, which tells of images what tags do, and more
        tags, images = None, images or tags
    data = from_model(model, images=Path(images) if images else None, tags=Path(tags) if tags else None)
    return write_page(data, Path(path), title=title)


def write_page(data: ReportData, path: Path, *, title: str | None = None) -> Path:
    """Write a page from what it shows. Raises ImgclustError if the file cannot be written."""
    content = page(data, title=title).encode()
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise ImgclustError(
            f"the report cannot be written to {str(path)!a}: {error.strerror}; "
            "give a file in a folder that exists and may be written"
        ) from None
    return path


def page(data: ReportData, *, title: str | None = None) -> str:
    """The page as text; a pure function of its arguments."""
    source = importlib.resources.files("imgclust") / "data" / "report"
    css = (source / "report.css").read_text("utf-8")
    js = "\n".join((source / name).read_text("utf-8") for name in _SCRIPTS)
    script = f'"use strict";\n{{\n{js}}}\n'
    heading = (title or f"Model {data.version}").encode("utf-8", "replace").decode()  # no lone surrogates
    parts = {
        "csp": html.escape(_policy(css, script)),
        "title": html.escape(heading),
        "css": css,
        "js": script,
        "data": script_json(_payload(data)),
    }
    template = (source / "template.html").read_text("utf-8")
    # one pass: what has been put in is not searched again
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def script_json(value: object) -> str:
    """JSON that may stand in a script element: ASCII, and no character that means something to HTML."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(css: str, script: str) -> str:
    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(css)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


# ---- the payload ----------------------------------------------------------------------------------------


def _payload(data: ReportData) -> dict[str, Any]:
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
    clusters = [
        {
            "id": c.id,
            "name": c.name,
            "size": c.size,
            "pictures": [number[i] for i in typical[c.id]],
            "light": light_dark[c.id][0],
            "dark": light_dark[c.id][1],
        }
        for c in data.clusters
    ]
    return {
        "clusters": clusters,
        "other": _other(data),
        "total": data.images,
        "extent": extent,
        "images": {
            "ids": ids,
            "placed": len(data.ids),
            "x": _packed(x),
            "y": _packed(y),
            "cluster": _packed(labels),
            "probability": _packed(_probabilities(ids, data.notes)),
            "thumbs": [[number[i], t] for i, t in _thumbnails(data, typical).items()],
            "notes": _notes(ids, data.notes, found),
        },
        "facets": [_facet_json(f) for f in found],
        **_words(data),
    }


def _packed(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


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


def _thumbnails(data: ReportData, typical: Mapping[int, list[str]]) -> dict[str, str]:
    """The most typical picture of each cluster, then the second of each, and so on; then the small ones."""
    by_rank = [ids[rank] for rank in range(TYPICAL) for ids in typical.values() if rank < len(ids)]
    chosen = _within(data.thumbnails, by_rank, MAX_THUMBNAIL_BYTES)
    others = [image for image in data.ids if image not in chosen]
    chosen |= _within(data.tiles, others, MAX_TILE_BYTES * len(data.ids))
    return {image: base64.b64encode(content).decode() for image, content in chosen.items()}


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


def _notes(ids: list[str], notes: Mapping[str, Note], found: list[Facet]) -> list[list[Any]]:
    """[number, what is known beyond the probability] of each image of which something is."""
    filters = {facet.name for facet in found}
    rows: list[list[Any]] = []
    for i, image in enumerate(ids):
        if not (note := notes.get(image)):
            continue
        others = [[k, v[:MAX_ATTRIBUTE_CHARS]] for k, v in note.attributes.items() if k not in filters]
        known = {
            "novel": note.novel,
            "candidates": [[c, round(s, 3)] for c, s in note.candidates],
            "attributes": others[:MAX_ATTRIBUTES],
        }
        if any(known.values()):
            rows.append([i, {k: v for k, v in known.items() if v}])
    return rows


def _facet_json(facet: Facet) -> dict[str, Any]:
    return {"name": facet.name, "values": facet.values, "codes": _packed(facet.codes.astype("<u2"))}


# ---- words and figures ----------------------------------------------------------------------------------

_GROUPS = {"train": "Trained on", "test": "Held out", "rest": "Neither"}
_SHARES = ("share", "other", "novel", "agreement", "rate")
_LABELS = {
    "umap": "UMAP", "hdbscan": "HDBSCAN", "ami": "AMI", "nmi": "NMI", "ari": "ARI", "dbcv": "DBCV",
}  # fmt: skip


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
    known = {**encoder, "weights": f"SHA-256 {str(encoder.get('weights'))[:12]}…"}
    return _rows(known)


def _other(data: ReportData) -> int:
    return max(0, data.images - sum(c.size for c in data.clusters))


def _tiles(data: ReportData) -> list[dict[str, str | None]]:
    """The few figures that stand at the top; what the fit did not measure is left out."""

    def figure(*path: str) -> Any:
        value: Any = data.figures
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value if isinstance(value, int | float) else None

    total, other = data.images, _other(data)
    given, held_out = figure("images"), figure("test", "other")
    ami, same = figure("test", "ami"), figure("predicted_as_fitted", "share")
    tiles: list[tuple[str, str, str | None]] = [
        ("Pictures", f"{total:,}", f"trained on, of {given:,}" if given else None),
        ("Clusters", f"{len(data.clusters):,}", None),
        (
            "In no cluster",
            shown("share", other / total if total else 0.0),
            f"{shown('share', held_out)} held out" if held_out is not None else f"{other:,} pictures",
        ),
    ]
    if ami is not None:
        tiles.append(("AMI", shown("ami", ami), "with the categories, held out"))
    if same is not None:
        tiles.append(("Stable", shown("share", same), "predicted as fitted"))
    return [{"label": heading, "value": value, "note": note} for heading, value, note in tiles]


def _words(data: ReportData) -> dict[str, Any]:
    total = data.images
    named = [c.name for c in sorted(data.clusters, key=lambda c: -c.size) if c.name][:3]
    lede = f"{total:,} pictures, grouped by what they show into {len(data.clusters):,} clusters"
    if named:
        lede += f"; the largest are {', '.join(named[:-1])}{' and ' if named[:-1] else ''}{named[-1]}"
    sections = [
        {"title": "Training", "rows": _rows(data.figures)},
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
        "tiles": _tiles(data),
        "sections": [s for s in sections if s["rows"]],
        "colophon": f"Model {data.version}. Made by imgclust; this page is complete and loads nothing.",
    }
