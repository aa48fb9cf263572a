"""What is done → what may be committed. Pure.

Results are published out of order, but Kafka keeps one number per partition: the offset to begin with after
a restart. `PartitionOffsets` turns one into the other: the committed offset is the lowest one that is not
done, and those above it that are done travel in the commit's metadata, so that a restart does not do them
again. docs/offsets.md walks through an example.

The metadata is `3:<mark>:<lives>:<uploads>:<retry>:<pending>:<base64>`, or `2:<mark>~<lives>:<base64>` where
the brokers do not tell the ids of topics. The mark names the transaction that wrote it, so that its writer
can tell afterwards whether a transaction whose end it did not see was committed. Lives: how many owners in a
row began to encode pictures at this very position and did not leave in order, the one that writes it
included. Each of them may have been killed by one of the records from there on. Once there were SUSPECT_AFTER
deaths, the number stays until the position has passed the suspects. Uploads and retry: the ids of
the topics that this was true of, because an offset says nothing of a topic that was deleted and made anew.
Pending: how many retries waited in the retry topic.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections import deque
from collections.abc import Iterable

# Brokers take 4,095 bytes of metadata (offset.metadata.max.bytes is 4,096, and that many are refused). Seven
# are punctuation; base64 puts 3 bytes into 4 characters, a byte holds 8 offsets: 24,048 of them.
MAX_METADATA_BYTES = 4095
MAX_MARK = 24
MAX_LIVES = 99
# After a death at its position a partition is read no further than this beyond it, until the position moves:
# so many records are suspects when there is a second one.
DOUBT_SPAN = 256
SUSPECT_AFTER = 2  # one death at a position is a crash or a deployment; two are a pattern
MAX_PENDING = 10**9 - 1
ID_CHARS = 22  # of a topic's id, 16 bytes in base64
SPAN = (MAX_METADATA_BYTES - 8 - MAX_MARK - 2 - 2 * ID_CHARS - 9) // 4 * 3 * 8
_MARK, _BITS, _ID = rf"([0-9a-z-]{{0,{MAX_MARK}}})", "([A-Za-z0-9+/=]*)", rf"([A-Za-z0-9+/_-]{{{ID_CHARS}}}|)"
_WITHOUT_IDS = re.compile(rf"2:{_MARK}(?:~(\d{{1,2}}))?:{_BITS}", re.ASCII)
_WITH_IDS = re.compile(rf"3:{_MARK}:(\d{{1,2}}):{_ID}:{_ID}:(\d{{1,9}}):{_BITS}", re.ASCII)
_REBASE = 4096  # bits of history that are kept before they are cut off


@dataclasses.dataclass(frozen=True, slots=True)
class CommitTopics:
    """The topics that a commit is about.

    Attributes:
        uploads, retry: their ids; empty where they are not known.
        pending: how many retries of the partition waited in the retry topic.
    """

    uploads: str = ""
    retry: str = ""
    pending: int = 0


NO_TOPICS = CommitTopics()


@dataclasses.dataclass(frozen=True, slots=True)
class _Metadata:
    """`bits`: what is done; bit i stands for the position + i."""

    mark: str = ""
    lives: int = 0
    bits: int = 0
    topics: CommitTopics = NO_TOPICS

    def __str__(self) -> str:
        if not (self.bits or self.mark or self.lives or self.topics.uploads):
            return ""
        lives, topics = min(self.lives, MAX_LIVES), self.topics
        size = (self.bits.bit_length() + 7) // 8
        bits = base64.b64encode(self.bits.to_bytes(size, "little")).decode()
        if not topics.uploads:
            return f"2:{self.mark}{f'~{lives}' if lives else ''}:{bits}"
        pending = min(topics.pending, MAX_PENDING)
        return f"3:{self.mark}:{lives}:{topics.uploads}:{topics.retry}:{pending}:{bits}"


def _read(metadata: str | None) -> _Metadata:
    """What this program wrote; of anything else, nothing."""
    text = metadata if metadata and len(metadata) <= MAX_METADATA_BYTES else ""
    topics = NO_TOPICS
    if found := _WITH_IDS.fullmatch(text):
        topics = CommitTopics(found[3], found[4], int(found[5]))
    elif not (found := _WITHOUT_IDS.fullmatch(text)):
        return _Metadata()
    try:
        bits = int.from_bytes(base64.b64decode(found[found.re.groups], validate=True), "little")
    except (binascii.Error, ValueError):
        return _Metadata()
    return _Metadata(found[1], int(found[2] or 0), bits, topics)


def encode_done(
    position: int, done: Iterable[int], mark: str = "", lives: int = 0, topics: CommitTopics = NO_TOPICS
) -> str:
    """Done offsets at or above `position` as text for a commit: bit i stands for position + i.

    Raises:
        ValueError: an offset lies outside of position … position + SPAN - 1.
    """
    bits = 0
    for offset in done:
        if not 0 <= offset - position < SPAN:
            raise ValueError(f"offset {offset} is not within {SPAN} of the position {position}")
        bits |= 1 << (offset - position)
    return str(_Metadata(mark, lives, bits, topics))


def decode_done(position: int, metadata: str | None) -> set[int]:
    """The inverse of `encode_done`. Metadata of another program or version says nothing: an empty set.

    Ignoring what cannot be read is safe: those uploads are done once more.
    """
    bits = _read(metadata).bits
    return {position + i for i in range(bits.bit_length()) if bits >> i & 1}


def mark_of(metadata: str | None) -> str:
    """The mark of the transaction that committed this; empty where there is none."""
    return _read(metadata).mark


def lives_of(metadata: str | None) -> int:
    """How many owners in a row began to encode at this position and did not leave in order."""
    return _read(metadata).lives


def topics_of(metadata: str | None) -> CommitTopics:
    """The topics that this commit is about."""
    return _read(metadata).topics


def cut(position: int, metadata: str | None, start: int) -> tuple[str, int]:
    """What is left of a commit when the log begins at `start`, beyond its position.

    Returns:
        The metadata for `start`, and how many offsets before it were not done.
    """
    found, passed = _read(metadata), start - position
    done_before = (found.bits & ((1 << passed) - 1)).bit_count()
    return str(_Metadata(found.mark, 0, found.bits >> passed, found.topics)), passed - done_before


def unfinished_of(metadata: str | None) -> int:
    """How many offsets were not done below the highest one that was."""
    bits = _read(metadata).bits
    return bits.bit_length() - bits.bit_count()


class PartitionOffsets:
    """The offsets of one partition during one assignment.

    Offsets are taken in growing order; gaps (compaction, transaction markers) are nobody's and count as done.
    """

    def __init__(self, position: int, metadata: str | None = None, suspects_end: int = 0) -> None:
        """Begin at the committed `position`, with the offsets done beyond it from the commit's metadata.

        Records below `suspects_end` are suspects, if there were SUSPECT_AFTER deaths. Each of them on its way
        to be encoded alone moves the position; whoever dies meanwhile leaves the suspicion to the next owner.

        The first commit is due at once: it says which position it is, where there was no commit before (a new
        group).
        """
        found = _read(metadata)
        self._lives, self._done = found.lives, found.bits
        self._began_at = position
        self._next = position  # one past the highest offset taken
        self._open: deque[int] = deque()  # taken, in order; done ones leave only at the front
        # Done offsets are the bits of one number, above `_base`: it is shifted out for each commit, where a
        # set of 24,000 took 2 ms.
        self._base = position
        self._committed: tuple[int, int, int] | None = None
        self._encoding = False
        self._suspects_end = suspects_end
        self._changed = True

    def _is_done(self, offset: int) -> bool:
        return bool(self._done >> (offset - self._base) & 1)

    def take(self, offset: int) -> bool:
        """Account for a record that was read; False when it was done before, or read before."""
        if offset < self._next:
            return False
        self._next = offset + 1
        self._open.append(offset)
        if self._is_done(offset):
            self._advance()
            return False
        return True

    def done(self, offset: int) -> None:
        """A taken offset has ended. One that ended before, in an earlier assignment too, changes nothing."""
        if self.position <= offset < self._next and not self._is_done(offset):
            self._done |= 1 << (offset - self._base)
            self._advance()

    def _advance(self) -> None:
        self._changed = True
        while self._open and self._is_done(self._open[0]):
            self._open.popleft()
        passed = self.position - self._base
        if passed >= _REBASE:
            self._done >>= passed
            self._base += passed

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
        return not self._open or offset - self._open[0] < (DOUBT_SPAN if self.in_doubt else SPAN)

    @property
    def in_doubt(self) -> bool:
        """Whether an owner died while it encoded at this very position, or there are suspects."""
        return self._lives > 0 and (self.position == self._began_at or self._has_suspects)

    @property
    def _has_suspects(self) -> bool:
        return self._lives >= SUSPECT_AFTER and self.position < self._suspects_end

    def encoding(self) -> None:
        """From now on pictures of this partition are encoded: the next commit says so."""
        if not self._encoding:
            self._encoding = self._changed = True

    @property
    def is_encoding_known(self) -> bool:
        """Whether a commit says so, or the position has moved on, so that it need not."""
        if self.position != self._began_at:
            return True
        return self._encoding and self._committed is not None and self._committed[2] > self._lives

    def _now(self) -> tuple[int, int, int]:
        """Position, done offsets, lives."""
        position = self.position
        if position == self._began_at:
            lives = self._lives + self._encoding
        else:
            lives = self._lives if self._has_suspects else 0
        return position, self._done >> (position - self._base), lives

    @property
    def uncommitted(self) -> bool:
        """Whether there is something that the last commit did not say."""
        return self._changed and self._now() != self._committed

    @property
    def unfinished(self) -> int:
        """How many offsets that were taken are not done."""
        return sum(not self._is_done(offset) for offset in self._open)

    def state(
        self, mark: str = "", *, leaving: bool = False, topics: CommitTopics = NO_TOPICS
    ) -> tuple[int, str]:
        """(offset, metadata) to commit now; `leaving`: this owner gives the partition up in order."""
        position, bits, lives = self._now()
        return position, str(_Metadata(mark, 0 if leaving else lives, bits, topics))

    def committed(self, state: tuple[int, str]) -> None:
        """The broker has `state`."""
        found = _read(state[1])
        self._committed = state[0], found.bits, found.lives
        self._changed = self._now() != self._committed

    def not_committed(self) -> None:
        """Nobody knows what the broker has: everything is to be committed again."""
        self._committed = None
        self._changed = True
