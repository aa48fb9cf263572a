"""Predicted pictures → one folder per cluster: copies, or symbolic links. Nothing is ever overwritten."""

from __future__ import annotations

import dataclasses
import filecmp
import itertools
import os
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from imgclust.errors import ImgclustError

if TYPE_CHECKING:
    from imgclust.tagging.rows import Row

OTHER_FOLDER = "other"
MAX_NAME_CHARS = 60


@dataclasses.dataclass(slots=True)
class Sorted:
    """How many pictures went where.

    Attributes:
        placed: new files or links.
        present: already there from an earlier run, with the same content.
        elsewhere: not files on this machine (URLs, files that were moved or removed), so left out.
        example: of these, the first.
    """

    placed: int = 0
    present: int = 0
    elsewhere: int = 0
    example: str = ""


def folder_name(cluster: int, name: str | None) -> str:
    """A folder's name that every file system takes: `012-playing-cards`, `012`, `other`.

    The number comes first, so equal names do not meet, and a name cannot be one that the system
    reserves, begin with a dot, or lead out of the folder.
    """
    if cluster < 0:
        return OTHER_FOLDER
    plain = unicodedata.normalize("NFKC", name or "")
    slug = re.sub(r"[^\w]+|_+", "-", plain).strip("-")[:MAX_NAME_CHARS].rstrip("-")
    return f"{cluster:03d}-{slug}" if slug else f"{cluster:03d}"


def copy_to(rows: Iterable[Row], folder: Path | str, counts: Sorted | None = None) -> Iterator[Row]:
    """Copy each predicted picture to `folder/<cluster>/`, passing the rows on as they come.

    Args:
        rows: predictions whose `source` is a path.
        folder: made if it is missing. It must not lie in a folder that is being read.
        counts: where to count.

    Raises:
        ImgclustError: a copy could not be made; the text names it.
    """
    return _sort(rows, Path(folder), counts or Sorted(), link=False)


def link_to(rows: Iterable[Row], folder: Path | str, counts: Sorted | None = None) -> Iterator[Row]:
    """Link to each predicted picture from `folder/<cluster>/`; see `copy_to`. Links hold absolute paths."""
    return _sort(rows, Path(folder), counts or Sorted(), link=True)


def check_outside(folder: Path | str, sources: Iterable[Path | str]) -> None:
    """Refuse to sort into a folder that is itself being read: it would find its own copies.

    Raises:
        ImgclustError: it lies in one of the sources, or is one.
    """
    target = Path(folder).resolve()
    for source in sources:
        if "://" not in str(source) and target.is_relative_to(Path(source).resolve()):
            raise ImgclustError(
                f"the pictures cannot be sorted into {str(folder)!a}: it is inside {str(source)!a}, which is "
                "being read; give a folder outside of it"
            )


def _sort(rows: Iterable[Row], folder: Path, counts: Sorted, *, link: bool) -> Iterator[Row]:
    for row in rows:
        source = Path(row.source)
        if "://" in row.source or not source.is_file():
            counts.elsewhere += 1
            counts.example = counts.example or row.source
        else:
            target = folder / folder_name(row.cluster, row.name)
            try:
                target.mkdir(parents=True, exist_ok=True)
                placed = _place(source.resolve(), target, source.name, link=link)
            except OSError as error:
                raise ImgclustError(
                    f"{row.source!a} cannot be sorted into {str(target)!a}: {error.strerror or error}"
                ) from None
            counts.placed += placed
            counts.present += not placed
        yield row


def _place(source: Path, folder: Path, name: str, *, link: bool) -> bool:
    """Put a file into a folder under its own name, or that name with a number. False: it was there."""
    stem, ending = os.path.splitext(name)
    for number in itertools.count(1):
        target = folder / (name if number == 1 else f"{stem} ({number}){ending}")
        try:
            if link:
                target.symlink_to(source)
            else:
                _copy(source, target)
            return True
        except FileExistsError:
            if _same(source, target, link=link):
                return False
    raise AssertionError("counting ended")


def _same(source: Path, target: Path, *, link: bool) -> bool:
    if link:
        return target.is_symlink() and Path(os.readlink(target)) == source
    return target.is_file() and filecmp.cmp(source, target, shallow=False)


def _copy(source: Path, target: Path) -> None:
    """Copy content and times; the target must not exist (FileExistsError), and is never left half written."""
    with source.open("rb") as read, target.open("xb") as write:
        try:
            shutil.copyfileobj(read, write, 1 << 20)
        except BaseException:
            target.unlink()
            raise
    shutil.copystat(source, target)
