"""Which images an embeddings folder holds: a name alone is no identity.

- A file at the same place (an absolute path) that was not changed since, or the same URL, is the same image.
- Another place whose id is taken, and a file that was changed, are judged by content: equal bytes under the
  same id are the same image; other bytes are another image, which gets the id `NAME#` and the beginning of
  its SHA-256.
- An id that a list gives itself stays as it is: a second image under it is an error, `duplicate-id`.

All is kept as 64-bit hashes: 28 bytes for each image that a run embeds, 56 for each that earlier runs did.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from imgclust.embedding.store import shards, working_folder
from imgclust.images.sources import Item, is_url
from imgclust.support.path_text import from_text

_Hashed = npt.NDArray[np.uint64]
# Of a Python set a number takes 100 bytes, so the latest are at most 100,000, or a small part of all.
_MERGE, _PARTS = 100_000, 64
_SUFFIX = re.compile(r"#([0-9a-f]{8,64})\Z")


class Meeting(enum.Enum):
    """What is known of an item before it is read."""

    NEW = enum.auto()
    PRESENT = enum.auto()  # the folder holds it
    REPEATED = enum.auto()  # this run has met it
    CONTESTED = enum.auto()  # its content decides


def _hash(*parts: str | None) -> int:
    return hash(parts) & 0xFFFF_FFFF_FFFF_FFFF


class _Hashes:
    """A growing set of 64-bit numbers, 8 bytes each but for the latest. Read by other threads meanwhile.

    Args:
        known: to begin with, in any order.
    """

    def __init__(self, known: Sequence[_Hashed] = ()) -> None:
        self._sorted: _Hashed = np.unique(np.concatenate(known)) if known else np.empty(0, np.uint64)
        self._latest: set[int] = set()

    def __contains__(self, value: int) -> bool:
        if value in self._latest:
            return True
        key = np.uint64(value)
        at = int(self._sorted.searchsorted(key))
        return at < len(self._sorted) and bool(self._sorted[at] == key)

    def add(self, value: int) -> None:
        self._latest.add(value)
        if len(self._latest) >= max(_MERGE, len(self._sorted) // _PARTS):
            new = np.sort(np.fromiter(self._latest, np.uint64, len(self._latest)))
            # a copy of what is there, not another sort of it
            self._sorted = np.insert(self._sorted, self._sorted.searchsorted(new), new)
            self._latest = set()


class KnownImages:
    """What a folder holds and what a run has met.

    Args:
        folder: of embeddings; may be empty.
    """

    def __init__(self, folder: Path) -> None:
        self._met_ids, self._met_places = _Hashes(), _Hashes()
        self._contested: set[int] = set()
        self._places: _Hashed = np.empty(0, np.uint64)  # sorted; of earlier runs
        self._shards: npt.NDArray[np.int32] = np.empty(0, np.int32)  # beside them: the number of their shard
        self._written: list[float] = []  # by the number of a shard: when it was
        ids: list[_Hashed] = []
        contents: list[_Hashed] = []
        places: list[_Hashed] = []
        of_shard: list[npt.NDArray[np.int32]] = []
        for shard in shards(folder):
            for kept, found in zip((ids, contents, places), _read(shard), strict=True):
                kept.append(np.fromiter(found, np.uint64, len(found)))
            of_shard.append(np.full(len(places[-1]), len(self._written), np.int32))
            self._written.append(shard.stat().st_mtime)
        self._ids, self._contents = _Hashes(ids), _Hashes(contents)
        if places:
            joined, numbers = np.concatenate(places), np.concatenate(of_shard)
            order = np.argsort(joined, kind="stable")
            self._places, self._shards = joined[order], numbers[order]

    def meet(self, item: Item) -> Meeting:
        """What is known of an item, which this run has met now."""
        place = _place(item.source, os.curdir) or item.source
        key = _key_of_id(item.id, place) if item.fixed_id else _hash(place)
        if key in self._met_places:
            return Meeting.REPEATED
        stored = self._stored(key, item)
        taken = _hash(item.id) in self._ids or _hash(item.id) in self._met_ids
        self._met_places.add(key)
        self._met_ids.add(_hash(item.id))
        if stored:
            return Meeting.PRESENT
        if taken:
            self._contested.add(_hash(item.id, item.source))
            return Meeting.CONTESTED
        return Meeting.NEW

    def is_present(self, item: Item, sha256: str) -> bool:
        """Whether a contested item is an image that the folder, or this run so far, has under its id."""
        return self.is_contested(item) and _hash(item.id, sha256) in self._contents

    def is_contested(self, item: Item) -> bool:
        return _hash(item.id, item.source) in self._contested

    def add(self, item: Item, sha256: str) -> str:
        """Note that an image is embedded now; its id."""
        self._contents.add(_hash(item.id, sha256))
        if not self.is_contested(item):
            return item.id
        lengths = (length for length in (8, 16, 64) if _hash(f"{item.id}#{sha256[:length]}") not in self._ids)
        return f"{item.id}#{sha256[: next(lengths, 64)]}"

    def _stored(self, key: int, item: Item) -> bool:
        """Whether an earlier run embedded what is at this place, and it was not changed since."""
        at = int(self._places.searchsorted(np.uint64(key), "right")) - 1  # the latest
        if at < 0 or self._places[at] != np.uint64(key):
            return False
        if item.is_url:
            return True
        try:
            status = os.stat(item.source)
        except (OSError, ValueError):
            return True  # it is gone, and its embedding stays
        return bool(max(status.st_mtime, status.st_ctime) <= self._written[self._shards[at]])


def _read(shard: Path) -> tuple[list[int], list[int], list[int]]:
    """Hashes of a shard's ids, contents and places."""
    table = pq.read_table(shard, columns=["id", "source", "sha256"])
    base = working_folder(shard)
    ids, contents, places = [], [], []
    for id_, source, sha256 in zip(*(column.to_pylist() for column in table.columns), strict=True):
        name = _name(id_, sha256)
        ids += [_hash(id_)] if name == id_ else [_hash(id_), _hash(name)]
        contents.append(_hash(name, sha256))
        place = _place(from_text(source), base)
        places += [_hash(place), _key_of_id(id_, place)] if place else []
    return ids, contents, places


def _key_of_id(id_: str, place: str) -> int:
    """Of an image whose id a list gives; a URL counts without its query, as signatures change."""
    return _hash(id_, place.partition("?")[0] if is_url(place) else place)


def _name(id_: str, sha256: str | None) -> str:
    """The id without the part of the content that told it apart."""
    found = _SUFFIX.search(id_)
    return id_[: found.start()] if found and (sha256 or "").startswith(found[1]) else id_


def _place(source: str, base: str | None) -> str | None:
    """Where an image is, in a form that is the same from everywhere; None: that is not known."""
    if is_url(source):
        return source
    if os.path.isabs(source):
        return os.path.normpath(source)
    return None if base is None else os.path.abspath(os.path.join(base, source))
