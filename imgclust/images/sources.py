"""What people name on a command line → single images: folders, files, lists in CSV or Parquet, URLs.

Everything is lazy and in a fixed order, so that millions of images need no list in memory and a run that
was interrupted meets them again as before.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from imgclust.errors import ImgclustError
from imgclust.images.lists import csv_rows, parquet_rows
from imgclust.support.path_text import from_text, is_sound, to_text

# A list's column that locates the image; the first that exists counts.
LOCATION_COLUMNS = ("source", "file", "path", "filename", "image", "url")
ID_COLUMN = "id"
LISTS = (".csv", ".tsv", ".parquet")

MAX_DEPTH = 64  # folders within folders


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One image to be read.

    Attributes:
        id: what it is called from now on: a list's `id`, else the path below the folder, or the URL; as text
            that can be stored, see `imgclust.support.path_text`.
        source: a path, as the system names it, or an http(s) or s3 URL.
        named: the user named this very image, so it is an error if it is none; files that a folder just
            happens to hold are skipped instead.
        attributes: a list's other columns.
        fixed_id: the id is the list's own word and stays as it is, whatever else is called so.
        problem: why there is no image to be read: a bad row of a list.
    """

    id: str
    source: str
    named: bool = True
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fixed_id: bool = False
    problem: str = ""

    @property
    def is_url(self) -> bool:
        return is_url(self.source)


def is_url(source: str) -> bool:
    """Whether a source is fetched rather than opened."""
    return source.lower().startswith(("http://", "https://", "s3://"))


def items(sources: Iterable[str | Path], skipped: Counter[str] | None = None) -> Iterator[Item]:
    """All images of some sources, in order.

    A single folder's images are called by their path below it; of several folders, each one's name comes
    before, so that equal names do not meet.

    Args:
        sources: folders (searched all the way down), files, CSV, TSV or Parquet lists, URLs.
        skipped: counts what is passed over: hidden files, loops of links, folders that cannot be read.

    Raises:
        ImgclustError: a source does not exist; a list has no column that locates its images.
    """
    skipped = Counter() if skipped is None else skipped
    names = [str(source) for source in sources]
    for name in names:  # report a wrong one before hours of work
        if not (is_url(name) or os.path.isdir(name) or os.path.isfile(name)):
            raise ImgclustError(f"{name!a} is neither a file, a folder nor a URL (http, https, s3)")
    several = sum(not is_url(name) and os.path.isdir(name) for name in names) > 1
    for source in names:
        if is_url(source):
            yield Item(source, source)
            continue
        path = Path(source)
        if path.is_dir():
            prefix = f"{path.resolve().name}/" if several else ""
            for found in _walk(path, skipped):
                relative = found.relative_to(path).as_posix()
                yield Item(to_text(prefix + relative), str(found), named=False)
        elif path.suffix.lower() in LISTS:
            yield from _listed(path)
        else:
            yield Item(to_text(path.as_posix()), str(path))


def from_lines(lines: Iterable[str]) -> Iterator[Item]:
    """Paths and URLs, one a line; blank lines are passed over."""
    for line in lines:
        source = line.strip("\r\n")
        if source.strip():
            yield Item(to_text(source), source)


def _walk(top: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Regular files below a folder, depth first, by name; links are followed, but never in a circle."""
    stack = [(top, frozenset[tuple[int, int]]())]
    while stack:
        folder, above = stack.pop()
        try:
            status = folder.stat()
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:
            skipped["unreadable folder"] += 1
            continue
        here = (status.st_dev, status.st_ino)
        if here in above or len(above) >= MAX_DEPTH:
            skipped["loop of links"] += 1
            continue
        below: list[tuple[Path, frozenset[tuple[int, int]]]] = []
        for entry in entries:
            if entry.name.startswith("."):  # also "._photo.jpg", which macOS leaves on other file systems
                skipped["hidden"] += 1
            elif os.path.isdir(entry.path):  # of an entry itself, a link to itself would be an error
                below.append((Path(entry.path), above | {here}))
            elif os.path.isfile(entry.path):
                yield Path(entry.path)
            else:
                skipped["not a file"] += 1
        stack.extend(reversed(below))


def _listed(path: Path) -> Iterator[Item]:
    """The rows of a list; relative paths start at the list's own folder."""
    rows = parquet_rows(path) if path.suffix.lower() == ".parquet" else csv_rows(path)
    location = None
    for number, row in enumerate(rows, 1):
        if isinstance(row, str):
            yield _bad_row(path, number, row)
            continue
        if location is None:
            location = next((c for c in LOCATION_COLUMNS if c in row), None)
            if location is None:
                raise ImgclustError(
                    f"{str(path)!a} has no column that locates the images: "
                    f"one of {', '.join(LOCATION_COLUMNS)}; it has {ascii(list(row))[:200]}"
                )
        yield _row_item(path, number, row, location)


def _row_item(path: Path, number: int, row: Mapping[str, Any], location: str) -> Item:
    cell = row[location] if row.get(location) is not None else ""
    where = from_text(os.fsdecode(cell) if isinstance(cell, bytes) else str(cell))
    if not where.strip():
        return _bad_row(path, number, f"its {location!r} is empty")
    attributes = {k: v for k, v in row.items() if k not in (location, ID_COLUMN) and _is_attribute(v)}
    for column, value in attributes.items():
        if isinstance(value, str) and not is_sound(value):
            return _bad_row(path, number, f"its {column!a} is not UTF-8: {ascii(value)[:200]}")
    source = where if is_url(where) else str(path.parent / where)
    name = row.get(ID_COLUMN)
    given = name not in (None, "")
    return Item(to_text(str(name) if given else where), source, attributes=attributes, fixed_id=given)


def _bad_row(path: Path, number: int, reason: str) -> Item:
    return Item(
        to_text(f"{path.name} row {number}"), str(path), problem=f"row {number} of the list: {reason}"
    )


def _is_attribute(value: object) -> bool:
    return isinstance(value, str | int | float | bool)
