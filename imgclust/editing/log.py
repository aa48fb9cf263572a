"""Hand edits of a model's clusters: who changed what, when, and on which version. Pure values.

A log only grows. `Undo` takes back the last edit that still holds; what it took back stays on record, and
numbers that a split had given stay used, as tags may carry them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imgclust.editing.classes import AddClass, RemoveClass
from imgclust.editing.golden import AddGolden, RemoveGolden
from imgclust.editing.parsing import clean_name, line, number, numbers, text
from imgclust.errors import ModelError
from imgclust.types import OTHER

MAX_EDITS, MAX_PARTS, MAX_ANCHORS = 10_000, 100, 4_096


@dataclasses.dataclass(frozen=True, slots=True)
class Rename:
    """Clusters with their new names; None takes a name away."""

    names: Mapping[int, str | None]


@dataclasses.dataclass(frozen=True, slots=True)
class RenameGroup:
    """Groups of clusters with their new names; None takes a name away."""

    names: Mapping[int, str | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Merge:
    """`clusters` are retired; their images belong to `into`."""

    into: int
    clusters: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A part of a split cluster: its new number, and points of the UMAP space that stand for it.

    A point of the split cluster belongs to the part that has the nearest of all anchors.
    """

    cluster: int
    anchors: tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """`cluster` is retired; its images belong to the parts."""

    cluster: int
    parts: tuple[Part, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Drop:
    """`clusters` are retired; their images are "other"."""

    clusters: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Undo:
    """Takes back the last edit that still holds."""


Change = (
    Rename | RenameGroup | Merge | Split | Drop | AddClass | RemoveClass | AddGolden | RemoveGolden | Undo
)


@dataclasses.dataclass(frozen=True, slots=True)
class Edit:
    """A change on record.

    Attributes:
        who: the name of whoever made it.
        when: RFC 3339.
        on: the version of the model that was edited.
        carried: made on an earlier model, and carried over by `fit --previous`.
    """

    change: Change
    who: str
    when: str
    on: str
    carried: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON's types; `from_dict` reads it."""
        record = {"who": self.who, "when": self.when, "on": self.on, **_change_to_dict(self.change)}
        return {**record, "carried": True} if self.carried else record

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Edit:
        """Raises ModelError for what `to_dict` did not write."""
        try:
            change = _change_from_dict(data)
            who, when, on = (line(data[key]) for key in ("who", "when", "on"))
            return cls(change, who, when, on, bool(data.get("carried", False)))
        except (ModelError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise ModelError(f"the model's record of hand edits is damaged ({str(error)!a:.100})") from None


def effective(log: Sequence[Edit]) -> list[Edit]:
    """The edits that hold: those that no `Undo` took back, in their order."""
    holding: list[Edit] = []
    for edit in log:
        if not isinstance(edit.change, Undo):
            holding.append(edit)
        elif holding:
            holding.pop()
        else:
            raise ModelError("the model's record of hand edits is damaged: it undoes what is not there")
    return holding


def described(log: Sequence[Edit]) -> list[str]:
    """What each edit does, in a line, with a remark where another one took it back."""
    lines = [describe(edit.change) for edit in log]
    holding: list[int] = []
    for place, edit in enumerate(log):
        if isinstance(edit.change, Undo):
            undone = holding.pop()
            lines[place] = f"undone: {lines[undone]}"
            lines[undone] += " (undone)"
        else:
            holding.append(place)
    return lines


def numbers_given(log: Sequence[Edit]) -> list[int]:
    """All numbers that splits and classes have got, those that were undone included."""
    found: list[int] = []
    for edit in log:
        match edit.change:
            case Split(_, parts):
                found += [part.cluster for part in parts]
            case AddClass(own):
                found.append(own)
    return found


def describe(change: Change) -> str:
    """What a change does, in a line."""
    match change:
        case Rename(names):
            return _called(names, "")
        case RenameGroup(names):
            return _called(names, "group ")
        case Merge(into, clusters):
            return f"{_listed(clusters)} merged into {into}"
        case Split(cluster, parts):
            return f"{cluster} split into {_listed([part.cluster for part in parts])}"
        case Drop(clusters):
            return f'{_listed(clusters)} dropped: now "other"'
        case AddClass(own, name, rule):
            made = f"a phrase, {rule.phrase!r}" if rule.phrase else f"{len(rule.vectors)} examples"
            return f"class {own} {name!r} added, made of {made}"
        case RemoveClass(own):
            return f"class {own} removed"
        case AddGolden(image, _, clusters, never):
            where = " or ".join("other" if one == OTHER else str(one) for one in clusters)
            return f"{image!a} must {'not be' if never else 'be'} in {where}"
        case RemoveGolden(image):
            return f"{image!a} is no longer golden"
        case Undo():
            return "the last edit undone"


def _called(names: Mapping[int, str | None], what: str) -> str:
    return "; ".join(
        f"{what}{number} is called {name!r}" if name else f"{what}{number} has no name"
        for number, name in names.items()
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:-1])) + (" and " if len(numbers) > 1 else "") + str(numbers[-1])


def _change_to_dict(change: Change) -> dict[str, Any]:
    match change:
        case Rename(names):
            return {"op": "rename", "names": [[number, name] for number, name in names.items()]}
        case RenameGroup(names):
            return {"op": "rename-group", "names": [[number, name] for number, name in names.items()]}
        case Merge(into, clusters):
            return {"op": "merge", "into": into, "clusters": list(clusters)}
        case Split(cluster, parts):
            listed = [{"cluster": p.cluster, "anchors": [list(a) for a in p.anchors]} for p in parts]
            return {"op": "split", "cluster": cluster, "parts": listed}
        case Drop(clusters):
            return {"op": "drop", "clusters": list(clusters)}
        case Undo():
            return {"op": "undo"}
        case _:
            return change.to_dict()


_WRITE_THEMSELVES: Mapping[str, Callable[[Mapping[str, Any]], Change]] = {
    "class": AddClass.from_dict,
    "remove-class": RemoveClass.from_dict,
    "golden": AddGolden.from_dict,
    "remove-golden": RemoveGolden.from_dict,
}


def _change_from_dict(data: Mapping[str, Any]) -> Change:
    match data["op"]:
        case "rename" | "rename-group" as what:
            named = {number(n): None if t is None else clean_name(text(t)) for n, t in data["names"]}
            return Rename(_some(named)) if what == "rename" else RenameGroup(_some(named))
        case "merge":
            return Merge(number(data["into"]), numbers(data["clusters"]))
        case "split":
            parts = tuple(Part(number(p["cluster"]), _anchors(p["anchors"])) for p in data["parts"])
            if not 2 <= len(parts) <= MAX_PARTS:
                raise ValueError(f"{len(parts)} parts")
            return Split(number(data["cluster"]), parts)
        case "drop":
            return Drop(numbers(data["clusters"]))
        case "undo":
            return Undo()
        case op if op in _WRITE_THEMSELVES:
            return _WRITE_THEMSELVES[op](data)
        case other:
            raise ValueError(f"an unknown operation: {other}")


def _some(named: dict[int, str | None]) -> dict[int, str | None]:
    if not named:
        raise ValueError("no cluster")
    return named


def _anchors(rows: Any) -> tuple[tuple[float, ...], ...]:
    anchors = tuple(tuple(map(float, row)) for row in rows)
    if not 1 <= len(anchors) <= MAX_ANCHORS or len({len(row) for row in anchors}) != 1:
        raise ValueError("anchors must be points of one space")
    if not all(math.isfinite(value) for row in anchors for value in row):
        raise ValueError("anchors must be finite")
    return anchors
