"""What a number of uploads a second takes: the arithmetic of docs/capacity.md, for your own figures.

    python -m benchmarks.capacity --uploads 400 --image-kb 120 --decode-ms 2.3 --gpu-images 900
    python -m benchmarks.capacity --page docs/capacity.md      write the page's table anew (`make docs`)

Nothing is measured here. The defaults of what is measured are from benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DAY = 86_400
TRANSACTION = 0.05  # seconds: WORKER_COMMIT_INTERVAL
CONNECTIONS, IN_FLIGHT = 64, 8192  # WORKER_FETCH_CONNECTIONS, WORKER_MAX_IN_FLIGHT
PREDICT_MS = 0.26  # RESULTS.md: a batch of 256, compiled; "ms per image" of `benchmarks.predict speed`, cpu
Reckon = Callable[[Any], Iterator[tuple[str, str, str]]]  # of a site: what, how much, how it is reckoned
MEASURED, CHOSEN, ASSUMED = "measured", "a setting", "assumed: use your own"


def figure(default: float, unit: str, source: str, meaning: str) -> float:
    made: float = dataclasses.field(
        default=default, metadata={"unit": unit, "source": source, "meaning": meaning}
    )
    return made


@dataclasses.dataclass(frozen=True)
class Site:
    """What is known of the uploads, the machines and the code."""

    uploads: float = figure(10_000, "/s", ASSUMED, "uploads at the peak")
    mean_share: float = figure(
        0.4, "", ASSUMED, "daily mean divided by the peak; storage depends on the mean"
    )
    image_kb: float = figure(200, "kB", ASSUMED, "size of an image")
    download_ms: float = figure(
        100, "ms", ASSUMED, "duration of a download, from the first byte sent to the last received"
    )
    fetch_ms: float = figure(0.08, "ms of a core", MEASURED, "fetching an image")
    decode_ms: float = figure(
        8.1, "ms of a core", MEASURED, "decoding a JPEG of 1,000 to 4,000 pixels (640: 2.3)"
    )
    parent_ms: float = figure(
        0.22, "ms of a core", MEASURED, "everything else except encoder and predictor, including the view"
    )
    predict_ms: float = figure(
        PREDICT_MS, "ms of a core", MEASURED, "predicting on the CPU, 150,000 training images, compiled"
    )
    gpu_images: float = figure(2_500, "/s", ASSUMED, "images that one GPU encodes")
    busy: float = figure(0.7, "", CHOSEN, "share of the time that cores and GPUs are busy at the peak")
    upload_bytes: float = figure(209, "bytes", MEASURED, "an upload event on disk, uncompressed")
    tag_bytes: float = figure(
        172, "bytes", MEASURED, "a tag on disk, 128 in a transaction (16: 409, alone: 660)"
    )
    redis_bytes: float = figure(
        1_233, "bytes", MEASURED, "a tag in Redis, with its entry in the cluster's set"
    )
    packed_bytes: float = figure(416, "bytes", MEASURED, "the same with `WORKER_REDIS_TAG=compact`")
    replicas: float = figure(3, "", CHOSEN, "copies of each Kafka partition")
    uploads_days: float = figure(7, "days", CHOSEN, "retention of uploads")
    tag_days: float = figure(30, "days", CHOSEN, "how long a tag stays in Redis after its upload")


def size(nbytes: float) -> str:
    for factor, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if nbytes >= factor:
            return f"{nbytes / factor:.3g} {unit}"
    return f"{nbytes / 1e3:.3g} kB"


def whole(number: float) -> str:
    return f"{math.ceil(round(number, 6)):,}"


def workers(site: Site) -> int:
    """One for each GPU, and no more uploads in one than half a core of its parent can see to."""
    gpus = site.uploads / (site.gpu_images * site.busy)
    parents = site.uploads * site.parent_ms / 1000 / 0.5
    return math.ceil(round(max(gpus, parents, 1), 6))


def partitions(site: Site) -> int:
    """The power of two from four for each worker on, so that there is room to grow and shares are even."""
    return 1 << math.ceil(math.log2(4 * workers(site)))


def needs(site: Site) -> Iterator[tuple[str, str, str]]:
    """(what, how much, how it is reckoned)"""
    n, count = site.uploads, workers(site)
    each, mean = n / count, n * site.mean_share
    network = n * site.image_kb * 1e3
    fetching = n * (site.fetch_ms + site.decode_ms) / 1000 / site.busy
    fetchers = math.ceil(round(fetching / count, 6))
    events = mean * DAY * site.upload_bytes * site.replicas
    yield "GPUs", whole(n / (site.gpu_images * site.busy)), "uploads / (images of a GPU × busy)"
    yield "workers", f"{count:,}", "one per GPU, and at most half a core of work for each parent"
    yield "partitions", f"{partitions(site):,}", "a power of two, at least 4 per worker"
    yield "image bytes in", f"{size(network)}/s, {network * 8 / 1e9:.3g} Gbit/s", "uploads × image"
    yield "cores to fetch and decode", whole(fetching), "uploads × (fetch + decode) / busy"
    yield "fetchers per worker", f"{fetchers:,}", "these cores / workers (`WORKER_FETCHERS`)"
    yield "cores for parents", whole(n * site.parent_ms / 1000 / site.busy), "uploads × parent / busy"
    predicting = n * site.predict_ms / 1000 / site.busy
    yield "cores to predict", whole(predicting), "uploads × predict / busy"
    yield "concurrent downloads", whole(n * site.download_ms / 1000), "uploads × download"
    slots = count * fetchers * CONNECTIONS
    yield "connections for them", f"{slots:,}", f"fetchers × `WORKER_FETCH_CONNECTIONS` ({CONNECTIONS})"
    flight = f"`WORKER_MAX_IN_FLIGHT` ({IN_FLIGHT:,}) / uploads of a worker"
    yield "longest mean time in flight", f"{IN_FLIGHT / each:.2g} s", flight
    yield "transactions", f"{count / TRANSACTION:,.0f}/s", "20/s per worker"
    yield "tags in a transaction", f"{max(1, round(each * TRANSACTION)):,}", "uploads of a worker / 20"
    yield "Kafka, uploads", size(events * site.uploads_days), "mean uploads × event × copies × days"
    tags = mean * DAY * site.tag_bytes * site.replicas
    yield "Kafka, tags, per day", size(tags), "mean uploads × tag × copies; for how long, see below"
    stored = mean * DAY * site.redis_bytes
    yield "Redis, per day", size(stored), "mean uploads × tag"
    yield "Redis, total", size(stored * site.tag_days), "this × days; plus replicas"
    packed = mean * DAY * site.packed_bytes * site.tag_days
    yield "Redis, total, compact", size(packed), "mean uploads × compact tag × days"


def table(
    reckon: Callable[[Any], Iterator[tuple[str, str, str]]], varied: str, unit: str, *sites: Any
) -> str:
    """In Markdown: the figures that go in, then what comes out for each site.

    Args:
        varied: the figure in which the sites differ; `unit` is its unit.
    """
    lines = ["| figure | value | | from |", "|---|---|---|---|"]
    for field in dataclasses.fields(sites[0]):
        if field.name != varied:
            value = getattr(sites[0], field.name)
            its, meaning, source = (field.metadata[k] for k in ("unit", "meaning", "source"))
            lines.append(f"| `{field.name}` | {value:,g} {its} | {meaning} | {source} |".replace("  ", " "))
    heads = " | ".join(f"{getattr(site, varied):,.15g} {unit}" for site in sites)
    lines += ["", f"| | {heads} | calculation |", "|---|" + "---|" * (len(sites) + 1)]
    for rows in zip(*map(reckon, sites), strict=True):
        what, _, how = rows[-1]
        lines.append(f"| {what} | {' | '.join(row[1] for row in rows)} | {how} |")
    return "\n".join(lines) + "\n"


PAGE = table(needs, "uploads", "uploads/s", *(Site(uploads=uploads) for uploads in (100, 1_750, 10_000)))


def page(text: str, made: str = PAGE) -> str:
    """The page with its table made anew."""
    place = r"(<!-- table -->\n).*?(<!-- /table -->)"
    text, count = re.subn(place, lambda m: m[1] + made + m[2], text, flags=re.S)
    if count != 1:
        raise SystemExit(f"the page must have one place for the table, has {count}")
    return text


def answer(
    description: str | None,
    site: type[Any],
    reckon: Reckon,
    varied: str,
    unit: str,
    made: str,
) -> None:
    """The table for the figures of the command line; or a page's table, `made`, in its place."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for field in dataclasses.fields(site):
        its, meaning = field.metadata["unit"], field.metadata["meaning"]
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(
            name, type=float, default=field.default, metavar=its or "N", help=f"{meaning} (%(default)g)"
        )
    parser.add_argument("--page", type=Path, help="write the table of this page anew")
    given = vars(parser.parse_args())
    target = given.pop("page")
    if target is not None:
        target.write_text(page(target.read_text(), made))
    else:
        print(table(reckon, varied, unit, site(**given)))


if __name__ == "__main__":
    answer(__doc__, Site, needs, "uploads", "uploads/s", PAGE)
