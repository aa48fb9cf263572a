"""Hand edits and `fit --previous`: what people decided holds on new pictures, with the same numbers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np

from imgclust.editing.classes import AddClass
from imgclust.editing.golden_check import golden_images
from imgclust.editing.log import Rename
from imgclust.editing.thresholds import from_examples
from imgclust.model.model import ClusterModel
from imgclust.naming.namers import WHO, names_by_people
from imgclust.training.fit import FitResult
from tests.unit.imgclust.training.test_continuation import FIRST, continued, first, pictures


def kind_of(model: ClusterModel, kind: int) -> list[int]:
    """Where the model puts new pictures of a kind: numbers, the most frequent first."""
    rows, _ = pictures({kind}, 41, each=12)
    return [number for number, _ in Counter(model.predict(rows).labels.tolist()).most_common()]


@cache
def numbers() -> dict[int, int]:
    """Kind → its cluster before any edit."""
    return {kind: kind_of(first(), kind)[0] for kind in FIRST}


@cache
def edited() -> ClusterModel:
    """Kinds 0 and 1 are one, 2 is dropped, 3 is in two parts, 4 has another name; 5 is as it was. Kind 7 is a
    class, and an image of each of 1 and 7 is golden."""
    n = numbers()
    model = first().edit(who="anna").merge(n[0], n[1]).edit(who="anna").drop(n[2])
    model = model.edit(who="bert").split(n[3], 2).edit(who="bert").rename({n[4]: "four"})
    model = model.edit().rename({max(c.id for c in model.clusters): "a part"})
    model = model.edit(who=f"{WHO} folders (dora)").rename({n[5]: "mostly five"})
    model = model.edit(who="cora").add_golden("one", image_of(1), [n[0]])
    rule = from_examples(pictures({7}, 1, each=12)[0], model.arrays["embeddings"].astype(np.float32), 0.95)
    model = model.edit(who="cora").add_class("receipts", rule, {"a.png": b"RIFF"})
    class_ = model.clusters[-1].id
    model = model.edit(who="cora").add_golden("seven", image_of(7), [class_])
    model = model.edit().rename({class_: "bills"})
    assert not model.check_golden()
    return model


def image_of(kind: int) -> np.ndarray:
    return pictures({kind}, 55, each=1)[0][0]


@cache
def later() -> FitResult:
    return continued(FIRST, 34, edited())


@cache
def latest() -> ClusterModel:
    return continued(FIRST, 35, later().model).model


def test_edits_hold_on_new_pictures() -> None:
    """Merged, dropped, split and renamed as before, in the same numbers."""
    model, n = later().model, numbers()
    assert {kind_of(model, 0)[0], kind_of(model, 1)[0]} == {n[0]}
    assert kind_of(model, 2)[0] == -1
    parts = {c.id for c in edited().clusters if not c.is_class} - set(n.values())
    assert len(parts) == 2
    assert set(kind_of(model, 3)) <= parts | {-1}
    assert parts <= {c.id for c in model.clusters}
    assert model.name(n[4]) == "four"
    assert model.name(max(parts)) == "a part"
    assert kind_of(model, 5)[0] == n[5]
    assert {c.id for c in model.clusters} == {c.id for c in edited().clusters}


def test_names_by_people_stay_names_by_people() -> None:
    """Through two fits, so that no namer replaces them; an undo brings back what the fit called the cluster.
    What a namer gave stays a name, which the next naming may replace."""
    n, part = numbers(), max(c.id for c in edited().clusters if not c.is_class)
    twice = latest()
    for model in (edited(), later().model, twice):
        given = {number: name for number, name in names_by_people(model).items() if name != "bills"}
        assert given == {n[4]: "four", part: "a part"}
        assert model.name(n[5]) == "mostly five"
    (rename,) = (e for e in twice.edits if isinstance(e.change, Rename) and n[4] in e.change.names)
    assert (rename.who, rename.carried) == ("bert", True)
    assert {c.id: c.name for c in twice.fitted_clusters}[n[4]] == f"by hand {n[4]}"


def test_retired_numbers_stay_retired() -> None:
    """Neither a merged nor a dropped nor a split number comes back, and new ones are above all of them."""
    model, n = later().model, numbers()
    assert not {n[1], n[2], n[3]} & {c.id for c in model.clusters}
    assert model.next_number >= edited().next_number
    assert model.taxonomy == first().taxonomy


def test_the_log_says_that_they_were_carried_over() -> None:
    """With the names of those who made them; an undo can take them back one by one."""
    model = later().model
    assert all(edit.carried for edit in model.edits)
    assert {edit.who for edit in model.edits} <= {"anna", "bert", "cora", edited().edits[-1].who}
    undone = model
    for _ in model.edits:
        undone = undone.edit().undo()
    assert len(undone.clusters) == len(FIRST)


def test_a_result_has_the_labels_that_people_see(tmp_path: Path) -> None:
    """Labels of all rows, those held out and the folder's agree with the edited model."""
    found = later()
    found.model.save(tmp_path / "model")
    loaded = ClusterModel.load(tmp_path / "model")
    assert set(found.labels.tolist()) <= {-1, *(c.id for c in loaded.clusters)}
    assert np.array_equal(found.labels[found.split.train], loaded.labels_)
    assert np.array_equal(found.labels[found.split.test], found.test.labels)
    rows, _ = pictures(FIRST, 34)
    assert np.array_equal(found.test.labels, loaded.predict(rows[found.split.test]).labels)


def test_classes_and_golden_images_are_kept() -> None:
    """The class has its number, its name and its images, beside clusters of the new fit; a golden image that
    the new model breaks is found."""
    model = later().model
    (class_,) = (c for c in model.clusters if c.is_class)
    assert class_ == dataclasses.replace(edited().clusters[-1], size=class_.size)
    assert class_.name == "bills"
    assert [model.thumbnails[image] for image in class_.exemplars] == [b"RIFF"]
    assert kind_of(model, 7)[0] == class_.id
    assert [edit.who for edit in model.edits if isinstance(edit.change, AddClass)] == ["cora"]
    assert [one.image for one in golden_images(model.edits)] == ["one", "seven"]
    assert not model.check_golden()
    without = model.edit().remove_class("bills").edit().add_golden("seven", image_of(7), [numbers()[5]])
    assert [one.golden.image for one in without.check_golden()] == ["seven"]


def test_what_lives_on_needs_not_be_there() -> None:
    """The kind whose number lives on is gone: what was merged into it has its number all the same."""
    model, n = continued(FIRST - {0}, 34, edited()).model, numbers()
    assert kind_of(model, 1)[0] == n[0]
    assert n[1] not in {c.id for c in model.clusters}


def test_carried_twice() -> None:
    """A fit after the next keeps them too."""
    model, n = latest(), numbers()
    assert {kind_of(model, 0)[0], kind_of(model, 1)[0]} == {n[0]}
    assert kind_of(model, 2)[0] == -1
    assert {c.id for c in model.clusters} == {c.id for c in edited().clusters}
