"""Golden images: what was said holds through later edits, and is checked as it was meant."""

from __future__ import annotations

import numpy as np
from hypothesis import given

from imgclust.editing.classes import RemoveClass
from imgclust.editing.golden import AddGolden, RemoveGolden
from imgclust.editing.golden_check import broken, golden_images
from imgclust.editing.log import Drop, Edit, Merge, Undo
from imgclust.editing.parsing import as_half
from tests.unit.imgclust.editing.test_mapping import FITTED, edit, followed, logs, split

VECTOR = as_half(np.array([1, 0], np.float32))


def golden(image: str, *clusters: int, never: bool = False) -> Edit:
    return edit(AddGolden(image, VECTOR, clusters, never))


def places(log: list[Edit]) -> list[tuple[str, tuple[int, ...], bool]]:
    return [(one.image, one.clusters, one.never) for one in golden_images(log)]


@given(logs())
def test_an_image_goes_where_its_cluster_goes(log: list[Edit]) -> None:
    """Said before any edit: wherever the edits send an image of that cluster, it is where it must be."""
    said = [golden(f"{number}", number) for number in FITTED]
    found = golden_images([*said, *log])
    assert [one.image for one in found] == [f"{number}" for number in FITTED]
    for number, one in zip(FITTED, found, strict=True):
        for x in (-2.5, 0.25, 3.0):
            assert not broken([one], [followed(log, number, x)])


def test_must_and_must_not() -> None:
    """In one of the clusters; in none of them."""
    held = golden_images([golden("a", 1, 2), golden("b", 1, never=True), golden("c", -1)])
    assert not broken(held, [2, 2, -1])
    found = broken(held, [3, 1, 0])
    assert [(one.golden.image, one.label) for one in found] == [("a", 3), ("b", 1), ("c", 0)]


def test_later_edits_are_followed() -> None:
    """A merge, a split, a drop, a removed class; what must not be in a cluster that is gone is free."""
    assert places([golden("a", 1), golden("b", 1, never=True), edit(Merge(0, (1,)))]) == [("a", (0,), False)]
    parts = edit(split(1, (10, 0.0), (11, 1.0)))
    assert places([golden("a", 1), golden("b", 1, never=True), parts]) == [
        ("a", (10, 11), False), ("b", (10, 11), True),
    ]  # fmt: skip
    assert places([golden("a", 1), golden("b", 1, never=True), edit(Drop((1,)))]) == [("a", (-1,), False)]
    assert places([golden("a", 20), edit(RemoveClass(20))]) == []


def test_said_again_removed_and_undone() -> None:
    """The last word about an image counts; an undo takes it back."""
    log = [golden("a", 1), golden("a", 2, never=True), golden("a", 3)]
    assert places(log) == [("a", (2,), True), ("a", (3,), False)]
    assert places([*log, edit(RemoveGolden("a"))]) == []
    assert places([*log, edit(RemoveGolden("a")), edit(Undo()), edit(Undo())]) == [
        ("a", (1,), False), ("a", (2,), True),
    ]  # fmt: skip
