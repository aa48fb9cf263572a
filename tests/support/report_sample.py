"""A small made-up report whose every name is hostile, for tests of the page."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image

from imgclust.report.annotations import Note
from imgclust.report.data import ReportCluster, ReportData

ATTACKS = (
    "</script><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "\"'><svg onload=window.pwned=1>",
    "{{data}}{{js}}",
    "\u2028\u2029window.pwned=1//",
    "<!--<script>",
    "javascript:window.pwned=1",
    "\u202egpj.exe",
)


@cache
def webp(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (128, 96), colour).save(file, "WEBP", quality=60)
    return file.getvalue()


def hostile_report(images: int = 400, clusters: int = 8, *, per_cluster: int = 24) -> ReportData:
    """`clusters` blobs on a circle and a tenth of the images in none; names, ids, attributes are attacks."""
    random = np.random.default_rng(7)
    labels = np.arange(images, dtype=np.int32) % clusters
    angle = labels / clusters * 2 * np.pi
    x = 10 * np.cos(angle) + random.normal(0, 1, images)
    y = 10 * np.sin(angle) + random.normal(0, 1, images)
    tenths = np.arange(images // 10)
    labels[10 * tenths + tenths % 7] = -1  # from every cluster
    ids = [f"folder{i % 3}/{ATTACKS[i % len(ATTACKS)]}-{i:05d}.jpg" for i in range(images)]
    members = {c: [ids[i] for i in np.flatnonzero(labels == c)] for c in range(clusters)}
    found = tuple(
        ReportCluster(
            id=c,
            name=None if c == clusters - 1 else f"{ATTACKS[c % len(ATTACKS)]} {c}",
            size=len(of_cluster),
            exemplars=tuple(of_cluster[:per_cluster]),
        )
        for c, of_cluster in members.items()
    )
    thumbnails = {
        image: webp((40 * c % 256, 90, 200)) for c in range(clusters) for image in members[c][:per_cluster]
    }
    notes = {
        image: Note(
            probability=0.0 if labels[i] < 0 else (1 + i % 3) / 4,
            novel=i % 97 == 0,
            reason=("between", "thin", "novel", None)[i // 10 % 4] if labels[i] < 0 else None,
            candidates=((int(i % clusters), 0.6), (int((i + 1) % clusters), 0.2)),
            attributes={"category": f"{ATTACKS[i % 2]} {'odd' if i % 2 else 'even'}", "who": str(i)},
        )
        for i, image in enumerate(ids)
    }
    return ReportData(
        version="0123456789ab",
        taxonomy="0123456789ab",
        created="2026-11-23T21:00:00Z",
        images=images,
        encoder={"name": ATTACKS[1], "weights": "ab" * 32, "dim": 1280},
        figures={"other_share": 0.1, "duplicates": 0, ATTACKS[0]: ATTACKS[1]},
        parameters={"UMAP": {"n_neighbors": 12}, "HDBSCAN": {"min_cluster_size": 15}},
        libraries={"umap-learn": "0.5.12"},
        clusters=found,
        ids=ids,
        x=x,
        y=y,
        labels=labels,
        thumbnails=thumbnails,
        notes=notes,
    )
