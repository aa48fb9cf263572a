"""Which pictures of a cluster are looked at beside its typical ones, and in which order pictures get room."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest

import numpy as np

from imgclust.report.annotations import Note
from imgclust.types import OTHER, Ints

SHOWN = 24  # of each kind


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """Image ids: those that the cluster holds least firmly, the least first; and any."""

    borderline: tuple[str, ...]
    random: tuple[str, ...]


def selections(ids: Sequence[str], labels: Ints, notes: Mapping[str, Note]) -> dict[int, Selection]:
    """Pictures of each cluster on the map; the same images give the same choice.

    Borderline are at most `SHOWN`, and at most half of the members whose probability is known: the other half
    is no border.
    """
    chosen = {}
    for cluster in np.unique(labels[labels != OTHER]).tolist():
        members = [ids[row] for row in np.flatnonzero(labels == cluster).tolist()]
        known = [i for i in members if i in notes and notes[i].probability is not None]
        least = sorted(known, key=lambda i: (notes[i].probability, i))
        order = np.random.default_rng(0).permutation(len(members))[:SHOWN]
        chosen[cluster] = Selection(
            borderline=tuple(least[: min(SHOWN, len(known) // 2)]),
            random=tuple(members[row] for row in order),
        )
    return chosen


def wanted_order(ids: Sequence[str], labels: Ints, chosen: Mapping[int, Selection]) -> Iterator[str]:
    """Images in the order in which they get a picture: what cards show, in turn; "other"; the rest.

    An image may come more than once.
    """
    lists: list[Iterable[str]] = [kind for s in chosen.values() for kind in (s.borderline, s.random)]
    turns = chain.from_iterable(zip_longest(*lists))
    yield from (image for image in turns if image is not None)
    yield from (ids[row] for row in np.flatnonzero(labels == OTHER).tolist())
    yield from ids
