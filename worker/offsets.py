"""What is done → what may be committed. Pure.

Results are published out of order, but Kafka keeps one number per partition: the offset to begin with after
a restart. `PartitionOffsets` turns one into the other: the committed offset is the lowest one that is not
done, and those above it that are done travel in the commit's metadata, so that a restart does not do them
again. docs/offsets.md walks through an example.
"""

from __future__ import annotations

import base64
import binascii
from collections import deque
from collections.abc import Iterable

# Brokers take 4,096 bytes of metadata (offset.metadata.max.bytes). Two are the version mark; base64 puts
# 3 bytes into 4 characters, a byte holds 8 offsets: (4096 - 2) // 4 * 3 * 8 = 24,552.
MAX_METADATA_BYTES = 4096
_VERSION = "1:"
SPAN = (MAX_METADATA_BYTES - len(_VERSION)) // 4 * 3 * 8


def encode_done(position: int, done: Iterable[int]) -> str:
    """Done offsets above `position` as text for a commit: bit i of byte j stands for position + 8j + i.

    Raises:
        ValueError: an offset lies outside of position … position + SPAN - 1.
    """
    bits = bytearray()
    for offset in done:
        distance = offset - position
        if not 0 <= distance < SPAN:
            raise ValueError(f"offset {offset} is not within {SPAN} of the position {position}")
        byte = distance >> 3
        if byte >= len(bits):
            bits.extend(bytes(byte + 1 - len(bits)))
        bits[byte] |= 1 << (distance & 7)
    return _VERSION + base64.b64encode(bits).decode() if bits else ""


def decode_done(position: int, metadata: str | None) -> set[int]:
    """The inverse of `encode_done`. Metadata of another program or version says nothing: an empty set.

    Ignoring what cannot be read is safe: those uploads are done once more.
    """
    if not metadata or not metadata.startswith(_VERSION) or len(metadata) > MAX_METADATA_BYTES:
        return set()
    try:
        bits = base64.b64decode(metadata[len(_VERSION) :], validate=True)
    except (binascii.Error, ValueError):
        return set()
    return {position + 8 * j + i for j, byte in enumerate(bits) for i in range(8) if byte >> i & 1}


class PartitionOffsets:
    """The offsets of one partition during one assignment.

    Offsets are taken in growing order; gaps (compaction, transaction markers) are nobody's and count as done.
    """

    def __init__(self, position: int, metadata: str | None = None, *, known: bool = True) -> None:
        """Begin at the committed `position`, with the offsets done beyond it from the commit's metadata.

        `known=False`: the broker does not have this position yet (a new group); it is committed first of all.
        """
        self._next = position  # one past the highest offset taken
        self._open: deque[int] = deque()  # taken, in order; done ones leave only at the front
        self._done = decode_done(position, metadata)  # done at or above the position
        self._committed: tuple[int, str] | None = (position, metadata or "") if known else None
        self._changed = not known

    def take(self, offset: int) -> bool:
        """Account for a record that was read; False when it was done before, or read before."""
        if offset < self._next:
            return False
        self._next = offset + 1
        self._open.append(offset)
        if offset in self._done:
            self._advance()
            return False
        return True

    def done(self, offset: int) -> None:
        """A taken offset's result is safe."""
        self._done.add(offset)
        self._advance()

    def _advance(self) -> None:
        self._changed = True
        while self._open and self._open[0] in self._done:
            self._done.discard(self._open.popleft())

    @property
    def next(self) -> int:
        """One past the highest offset that was taken."""
        return self._next

    @property
    def position(self) -> int:
        """The lowest offset that is not done."""
        return self._open[0] if self._open else self._next

    def fits(self, offset: int) -> bool:
        """Whether a commit could still say that `offset` is done; if not, intake must wait."""
        return not self._open or offset - self._open[0] < SPAN

    def uncommitted(self) -> tuple[int, str] | None:
        """(offset, metadata) to commit; None when the last commit already said so."""
        if not self._changed:
            return None
        position = self.position
        state = (position, encode_done(position, (o for o in self._done if o > position)))
        self._changed = False
        return None if state == self._committed else state

    def committed(self, state: tuple[int, str]) -> None:
        """The broker has `state`."""
        self._committed = state

    def not_committed(self) -> None:
        """The last commit failed: `uncommitted` says it again."""
        self._changed = True
