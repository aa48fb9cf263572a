"""Two models side by side: one offline page with what became of each cluster, in pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.comparing.compare import (
    EMPTY,
    GONE,
    KEPT,
    MERGED,
    NEW,
    SPLIT,
    ClusterFate,
    Comparison,
    Flow,
    MovedImage,
)
from imgclust.comparing.words import described, named, percent
from imgclust.report.pictures import MAX_BYTES, document, escaped, image
from imgclust.support.tables import write_whole
from imgclust.types import OTHER

if TYPE_CHECKING:
    from imgclust.model.model import ClusterModel

PICTURES = 6  # of a cluster
LEAST = 0.05  # share of a cluster's images that is worth a line
HEADINGS = {  # fate → heading; what changed comes first
    SPLIT: "Split",
    MERGED: "Merged into another",
    GONE: "Gone",
    NEW: "New",
    KEPT: "Kept",
    EMPTY: "Without an image among those compared",
}

_CSS = """
summary { cursor: pointer; font-size: 17px; font-weight: 600; margin: 22px 0 8px; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 8px 28px; padding: 12px 0; }
.pair { border-top: 1px solid var(--line); }
.pair h3 { font-size: 15px; margin: 0 0 6px; overflow-wrap: anywhere; }
.pair h3 small { color: var(--muted); font-weight: 400; }
.pair ul { grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 5px; margin-bottom: 10px; }
meter { width: 100%; height: 8px; }
@media (max-width: 700px) { .pair { grid-template-columns: 1fr; } .pair > div + div { padding-left: 18px; } }
"""


def write_comparison(
    found: Comparison,
    before: ClusterModel,
    after: ClusterModel,
    path: Path,
    pictures: Mapping[str, bytes] | None = None,
) -> None:
    """Write the page.

    Args:
        pictures: image id → WebP, of images that move and are typical of no cluster.

    Raises:
        ImgclustError: it cannot be written.
    """
    write_whole(path, page(found, before, after, pictures or {}).encode())


def page(found: Comparison, before: ClusterModel, after: ClusterModel, pictures: Mapping[str, bytes]) -> str:
    """The page as text; a pure function of its arguments."""
    return _Page(found, (before, after), pictures).text()


class _Page:
    def __init__(
        self, found: Comparison, models: tuple[ClusterModel, ClusterModel], pictures: Mapping[str, bytes]
    ) -> None:
        self.found, self.models = found, models
        self.pictures = {**pictures, **models[1].thumbnails, **models[0].thumbnails}
        self.typical: list[dict[int, Sequence[str]]] = [
            {c.id: c.exemplars for c in model.clusters} for model in models
        ]
        self.room = [MAX_BYTES]

    def text(self) -> str:
        found, (before, after) = self.found, self.models
        about = (
            f"{found.moved:,} of {found.images:,} images ({percent(found.moved_share)}) move. In no cluster: "
            f"{found.other[0]:,} before, {found.other[1]:,} after. Left: model {before.version}; "
            f"right: model {after.version}."
        )
        fates = [(fate, True) for fate in found.before] + [(fate, False) for fate in found.new]
        groups = ((fate, [pair for pair in fates if pair[0].fate == fate]) for fate in HEADINGS)
        body = "".join(self._group(fate, pairs) for fate, pairs in groups if pairs) + self._moves()
        return document(f"{before.version} and {after.version}", about, body, _CSS)

    def _group(self, fate: str, pairs: list[tuple[ClusterFate, bool]]) -> str:
        rows = "".join(self._pair(one, left) for one, left in pairs)
        return f"<details open><summary>{HEADINGS[fate]} ({len(pairs)})</summary>{rows}</details>"

    def _pair(self, fate: ClusterFate, left: bool) -> str:
        """A cluster of one model beside those of the other that have its images."""
        own = self._cluster(fate.number, 0 if left else 1, f"{fate.images:,} images")
        parts = [flow for flow in fate.flows if flow.share >= LEAST or flow.cluster == fate.same]
        others = "".join(self._part(flow, 1 if left else 0) for flow in parts)
        sides = (own, others) if left else (others, own)
        return f'<div class="pair"><div>{sides[0]}</div><div>{sides[1]}</div></div>'

    def _part(self, flow: Flow, side: int) -> str:
        about = f"{flow.images:,} images, {percent(flow.share)}"
        return f'<meter value="{flow.share:.4f}"></meter>{self._cluster(flow.cluster, side, about)}'

    def _cluster(self, number: int, side: int, about: str) -> str:
        name = "in no cluster" if number == OTHER else described(number, self.found.names[side].get(number))
        ids = [i for i in self.typical[side].get(number, ()) if i in self.pictures][:PICTURES]
        shown = "".join(f"<li>{image(i, self.pictures[i], self.room)}</li>" for i in ids)
        return f"<h3>{escaped(name)} <small>{escaped(about)}</small></h3>" + (
            f"<ul>{shown}</ul>" if shown else ""
        )

    def _move(self, one: MovedImage) -> str:
        before, after = self.found.names
        return escaped(f"{named(one.before, before)} → {named(one.after, after)}")

    def _moves(self) -> str:
        found = self.found
        if not found.examples:
            return ""
        rows = "".join(
            f"<li><figure>{image(one.id, self.pictures.get(one.id), self.room)}<figcaption>"
            f"<b>{self._move(one)}</b>{escaped(one.id)}</figcaption></figure></li>"
            for one in found.examples
        )
        heading = f"Images that move ({len(found.examples):,} of {found.moved:,})"
        return f"<details open><summary>{heading}</summary><ul>{rows}</ul></details>"
