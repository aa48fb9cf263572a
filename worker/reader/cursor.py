"""Where a page ends, as text that goes through a client and comes back."""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Iterable

import orjson

from worker.messages.tag import TAXONOMY
from worker.messages.text import printable
from worker.messages.upload import MAX_ID_CHARS

MAX_CURSOR_CHARS = 4096
MAX_CLUSTERS = 100  # named in one question: their numbers fit into a cursor


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where an id stands in a sorted set, as Redis orders them: by score, then by the id's bytes."""

    score: int
    member: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """Which clusters a question is about.

    Attributes:
        clusters: their numbers, ascending; None for all of the taxonomy.
        without: of these, the ones that are left out, ascending.
    """

    clusters: tuple[int, ...] | None
    without: tuple[int, ...] = ()

    @classmethod
    def of(cls, clusters: int | Iterable[int] | None, without: Iterable[int] = ()) -> Selection:
        """Raises ValueError for what are not numbers of clusters, or too many of them."""
        several = (clusters,) if isinstance(clusters, int) else clusters
        named = None if several is None else tuple(sorted(set(several)))
        left_out = tuple(sorted(set(without)))
        numbers = [*(named or ()), *left_out]
        if len(numbers) > MAX_CLUSTERS:
            raise ValueError(f"at most {MAX_CLUSTERS} clusters can be named, got {len(numbers)}")
        if any(type(number) is not int or not -1 <= number < 2**31 for number in numbers):
            raise ValueError(f"a cluster is a whole number from -1 on, got {printable(numbers)}")
        return cls(named, left_out)

    def __str__(self) -> str:
        named = "all clusters" if self.clusters is None else _listed("cluster", self.clusters)
        return f"{named} without {_listed('', self.without)}" if self.without else named

    def encode(self) -> object:
        if self.clusters is not None and len(self.clusters) == 1 and not self.without:
            return self.clusters[0]
        return [self.clusters, self.without]

    @classmethod
    def decode(cls, value: object) -> Selection:
        if type(value) is int:
            return cls.of(value)
        if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], list):
            raise ValueError("no clusters")
        clusters, without = value
        if clusters is not None and not isinstance(clusters, list):
            raise ValueError("no clusters")
        return cls.of(clusters, without)


def _listed(word: str, numbers: Iterable[int]) -> str:
    shown = ", ".join(map(str, numbers))
    return f"{word} {shown}".strip()


@dataclasses.dataclass(frozen=True, slots=True)
class Cursor:
    taxonomy: str
    selection: Selection
    place: Place

    def encode(self) -> str:
        fields = [1, self.taxonomy, self.selection.encode(), self.place.score, self.place.member.decode()]
        return base64.urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises ValueError for everything that `encode` did not make."""
        try:
            if not isinstance(text, str) or len(text) > MAX_CURSOR_CHARS:
                raise ValueError("too long")
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            version, taxonomy, clusters, score, member = orjson.loads(raw)
            kinds = [type(field) for field in (version, taxonomy, score, member)]
            if version != 1 or kinds != [int, str, int, str] or not TAXONOMY.fullmatch(taxonomy):
                raise ValueError("not a cursor of this version")
            if len(member) > MAX_ID_CHARS:
                raise ValueError("no such id")
            selection = Selection.decode(clusters)
        except (ValueError, TypeError, binascii.Error) as error:
            raise ValueError(
                f"not a cursor: {printable(text)} ({error}); use the one that the last page came with, "
                "or none for the first page"
            ) from None
        return cls(taxonomy, selection, Place(score, member.encode()))
