"""Small pictures of the images on a report's map, made from where the images were embedded from.

A model keeps its most typical pictures only. Where the others are still at hand, as files on this machine,
a report can show them too, in the size of a fingertip. Nothing is fetched.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imgclust.errors import ImageError
from imgclust.images.decode import DEFAULT_LIMITS, thumbnail
from imgclust.images.reader import Reader
from imgclust.images.sources import Item
from imgclust.support.path_text import from_text

SIDES = (128, 96, 64, 48)  # pixels; on the map and in lists they are shown at 34 to 128
BYTES_PER_PIXEL = 0.35  # of a square of photographs; of clip-art it is half
CHUNK = 256


def fitting(room: int, images: int) -> tuple[int, int]:
    """The side of small pictures, and how many: the largest that has room for all, else some of the smallest.

    Args:
        room: bytes.
        images: that want a picture.
    """
    for side in SIDES:
        count = max(0, int(room / (BYTES_PER_PIXEL * side * side)))
        if count >= images:
            return side, images
    return side, count


def tiles(sources: Iterable[tuple[str, str]], wanted: Set[str], side: int) -> Iterator[tuple[str, bytes]]:
    """Make small pictures of the images whose files can still be read; the others are passed over.

    Args:
        sources: (image id, path or URL) pairs.
        wanted: the ids that are needed.
        side: of the pictures, in pixels.

    Yields:
        (image id, WebP of the whole picture within side × side pixels), in the order of `sources`.
    """
    named = (Item(image, source) for image, source in sources if image in wanted)
    files = (item for item in named if not item.is_url)
    with Reader() as reader, ThreadPoolExecutor(os.cpu_count() or 1, "imgclust-tiles") as pool:
        while chunk := list(itertools.islice(files, CHUNK)):
            for item, tile in zip(chunk, pool.map(lambda i: _tile(i, reader, side), chunk), strict=True):
                if tile is not None:
                    yield item.id, tile


def _tile(item: Item, reader: Reader, side: int) -> bytes | None:
    try:
        return thumbnail(reader.read(item, DEFAULT_LIMITS.max_bytes), side)
    except ImageError:
        return None


def embedded_from(folder: Path, wanted: Iterable[str] | None = None) -> Iterator[tuple[str, str]]:
    """(image id, source) of the rows of an embeddings folder; the vectors are not read.

    Args:
        wanted: ids; None: every row.
    """
    from imgclust.embedding.store import shards, working_folder
    from imgclust.exporting.rows import placed
    from imgclust.support.columns import pieces, wanted_ids

    ids = None if wanted is None else wanted_ids(wanted)
    for shard in shards(folder):
        start = working_folder(shard) or ""
        for batch in pieces(shard, ["id", "source"], ids):
            sources = [placed(from_text(source), start) for source in batch.column("source").to_pylist()]
            yield from zip(batch.column("id").to_pylist(), sources, strict=True)
