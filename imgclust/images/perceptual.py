"""A perceptual hash of the whole picture: 64 bits that stay when it is scaled or encoded again.

Encoders see a crop, so pictures that differ at their edges can have one embedding; the hash sees all of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from imgclust.types import Bools

UNKNOWN = 0  # no picture has this hash
SAME = 8  # bits that may differ between copies of one picture
_BITS = np.array([bin(value).count("1") for value in range(1 << 16)], np.uint8)

Hashes = npt.NDArray[np.uint64]


def perceptual_hash(image: Image.Image) -> int:
    """The hash of an upright picture: pHash, low frequencies of 32 × 32 grey pixels against their median."""
    import imagehash

    bits = imagehash.phash(image).hash.ravel()
    return int(np.packbits(bits).view(">u8")[0]) or 1


def differing(one: Hashes, other: Hashes) -> npt.NDArray[np.int64]:
    """int64 (n,): in how many bits hashes differ."""
    differences = np.ascontiguousarray(one ^ other)
    return np.asarray(_BITS[differences.view(np.uint16).reshape(-1, 4)].sum(axis=1, dtype=np.int64))


def may_be_same(one: Hashes, other: Hashes) -> Bools:
    """bool (n,): hashes are near enough for one picture, or one of them is not known."""
    unknown = (one == UNKNOWN) | (other == UNKNOWN)
    return np.asarray(unknown | (differing(one, other) <= SAME))
