"""Rows in an order of their own: whatever order they were given in, a fit meets them alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from imgclust.images.perceptual import Hashes
from imgclust.training.dedupe import Rows
from imgclust.types import Floats

_PART = 4096  # rows that are read at once
_ZERO = np.float32(0)  # added, it makes 0 of −0, which is the same number in other bytes


def content_order(
    rows: Floats,
    ids: Sequence[str],
    digests: Sequence[str | None] | None = None,
    hashes: Hashes | None = None,
) -> Rows:
    """The rows by a hash of their content; those of equal content by file, then by id.

    A hash and not the numbers themselves: what is alike must not lie together, as samples and blocks are cut
    from this order.

    Args:
        rows: float32 (n, d), of float16 values.
        ids: n different names. Of equal rows the one of the shortest id comes first, so that numbers count.
        digests: SHA-256 of each file, where they are known.
        hashes: uint64 (n,), perceptual hashes.

    Returns:
        int64 (n,): which row comes first, second, …
    """
    keys = _keys(rows)
    order = np.argsort(keys, kind="stable")
    changes = np.flatnonzero(np.diff(keys[order])) + 1
    starts, stops = np.append(0, changes), np.append(changes, len(order))

    def of_equals(row: int) -> tuple[bytes, str, int, int, str]:
        digest, whole = digests[row] if digests else None, 0 if hashes is None else int(hashes[row])
        return (rows[row] + _ZERO).tobytes(), digest or "", whole, len(ids[row]), ids[row]

    for first in np.flatnonzero(stops - starts > 1):
        some = slice(starts[first], stops[first])
        order[some] = sorted(order[some].tolist(), key=of_equals)
    return order


def _keys(rows: Floats) -> npt.NDArray[np.uint64]:
    keys = bytearray()
    for start in range(0, len(rows), _PART):
        part = np.ascontiguousarray(rows[start : start + _PART] + _ZERO, "<f2")
        keys += b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in part)
    return np.frombuffer(bytes(keys), "<u8")
