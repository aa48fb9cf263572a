"""What embedding, predicting and fitting a number of images takes: the arithmetic of docs/scale.md.

    python -m benchmarks.library_scale --images 1e9 --gpus 8 --decode-ms 2.3 --gpu-images 900
    python -m benchmarks.library_scale --page docs/scale.md      write the page's table anew (`make docs`)

Nothing is measured here. The defaults of what is measured are from benchmarks/RESULTS.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from benchmarks.capacity import ASSUMED, CHOSEN, MEASURED, PREDICT_MS, answer, figure, size, table

HOUR = 3_600
ROW, ROW_AGAIN = 28, 56  # bytes that `embed` holds of each image, and of each that it finds done
TRAINED = 0.8  # of what `fit` reads; the others are held out
LISTS = 1_087  # bytes of ids, sources and digests of an image that `fit` has loaded


@dataclasses.dataclass(frozen=True)
class Library:
    """What is known of the images, the machines and the code."""

    images: float = figure(1e9, "", ASSUMED, "images")
    image_kb: float = figure(200, "kB", ASSUMED, "size of an image")
    decode_ms: float = figure(
        8.1, "ms of a core", MEASURED, "decoding a JPEG of 1,000 to 4,000 pixels (640: 2.3)"
    )
    fetch_ms: float = figure(0.08, "ms of a core", MEASURED, "fetching an image")
    gpu_images: float = figure(2_500, "/s", ASSUMED, "images that one GPU encodes")
    gpus: float = figure(8, "", CHOSEN, "GPUs of the cluster")
    cores: float = figure(256, "", CHOSEN, "cores of the cluster")
    busy: float = figure(0.7, "", CHOSEN, "share of the time that cores and GPUs are busy")
    dim: float = figure(512, "", CHOSEN, "numbers of an embedding")
    row_bytes: float = figure(150, "bytes", ASSUMED, "the rest of a row: id, source, attributes")
    predict_ms: float = figure(
        PREDICT_MS, "ms of a core", MEASURED, "predicting, 150,000 training images, compiled"
    )
    driver_ms: float = figure(
        0.02, "ms of a core", MEASURED, "the process that lists and counts, without Ray's own part"
    )
    retag_images: float = figure(
        3_136,
        "/s",
        MEASURED,
        "images that one `retag` process with one thread tags, 150,000 training images",
    )
    retag_processes: float = figure(32, "", CHOSEN, "`retag` processes; at most the number of partitions")
    train: float = figure(120_000, "", CHOSEN, "images to train on: `--max-train`")
    fit_seconds: float = figure(
        120, "s", MEASURED, "a fit of 150,000 images, 119,976 of them for training, 2 cores"
    )


def needs(library: Library) -> Iterator[tuple[str, str, str]]:
    """(what, how much, how it is reckoned)"""
    n = library.images
    gpu = n / library.gpu_images / HOUR
    decoding = n * (library.fetch_ms + library.decode_ms) / 1000 / HOUR
    predicting = n * library.predict_ms / 1000 / HOUR
    with_gpus, with_cores = gpu / library.gpus / library.busy, decoding / library.cores / library.busy
    driver = n * library.driver_ms / 1000 / HOUR
    yield "encoding", f"{gpu:,.1f} GPU-hours", "images / images of a GPU"
    yield "fetching and decoding", f"{decoding:,.0f} core-hours", "images × (fetch + decode)"
    yield "predicting", f"{predicting:,.1f} core-hours", "images × predict"
    yield "· encoding on the cluster", f"{with_gpus:,.1f} h", "GPU-hours / (GPUs × busy)"
    yield "· decoding on the cluster", f"{with_cores:,.1f} h", "core-hours / (cores × busy)"
    yield "· listing and counting, one process", f"{driver:,.1f} h", "images × driver"
    yield "`embed --engine ray`", f"{max(with_gpus, with_cores, driver):,.1f} h", "the longest of the three"
    yield "images read", size(n * library.image_kb * 1e3), "images × image"
    row = library.dim * 2 + library.row_bytes
    yield "embeddings, stored", size(n * row), "images × (2 × numbers + row)"
    yield "memory of `embed`, at its end", size(n * ROW), f"images × {ROW} bytes"
    yield "· if all were embedded before", size(n * ROW_AGAIN), f"images × {ROW_AGAIN} bytes"
    yield (
        "fit",
        f"{library.fit_seconds * library.train / 119_976 / 60:,.0f} min",
        "measured × trained / 119,976",
    )
    read = min(n, library.train / TRAINED)
    held = read * (library.dim * 12 + LISTS)
    yield (
        "· memory for what it reads",
        size(held),
        f"images read × (12 × numbers + {LISTS:,}); plus UMAP",
    )
    retag = n / library.retag_images / HOUR
    yield "`retag`, one process", f"{retag:,.1f} h", "images / images of a process"
    yield "`retag`, all processes", f"{retag / library.retag_processes:,.1f} h", "the same / processes"


PAGE = table(needs, "images", "images", *(Library(images=images) for images in (1e7, 1e8, 1e9)))

if __name__ == "__main__":
    answer(__doc__, Library, needs, "images", "images", PAGE)
