"""Hand edits of a model: numbers stay what they mean, the folder keeps who did what, and nothing is lost."""

from __future__ import annotations

import dataclasses
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import orjson
import pytest

from imgclust.editing.log import Edit, Undo, effective
from imgclust.errors import ModelError
from imgclust.model.drift import Reference
from imgclust.model.model import ClusterModel
from tests.support.fitted import fitted, grouped


@cache
def model() -> ClusterModel:
    """Six clusters, one of each group of rows."""
    found = fitted().model
    assert len(found.clusters) == 6
    return found.renamed([f"name {cluster.id}" for cluster in found.clusters])


def saved(one: ClusterModel, folder: Path) -> ClusterModel:
    one.save(folder / "model")
    return ClusterModel.load(folder / "model")


def test_merge_retires_a_number(tmp_path: Path) -> None:
    """Every row of the merged cluster is in the one that lives on, with its name; all else is as before."""
    before, rows = model(), grouped(3)[0]
    after = saved(before.edit(who="anna").merge(2, 4), tmp_path)
    was, is_ = before.predict(rows), after.predict(rows)
    assert np.array_equal(is_.labels, np.where(was.labels == 4, 2, was.labels))
    assert np.array_equal(is_.probabilities, was.probabilities)
    assert np.array_equal(after.labels_, np.where(before.labels_ == 4, 2, before.labels_))
    assert [c.id for c in after.clusters] == [0, 1, 2, 3, 5]
    assert after.name(2) == "name 2"
    assert after.name(4) is None
    assert after.clusters[2].size == before.clusters[2].size + before.clusters[4].size
    mixed = set(after.clusters[2].exemplars[:4])
    assert mixed & set(before.clusters[2].exemplars)
    assert mixed & set(before.clusters[4].exemplars)


def test_split_gives_new_numbers(tmp_path: Path) -> None:
    """The parts are all of the cluster and nothing else; its number is gone for good."""
    before, rows = model(), grouped(3)[0]
    after = saved(before.edit(who="anna").split(3, into=2), tmp_path)
    was, is_ = before.predict(rows), after.predict(rows)
    assert [c.id for c in after.clusters] == [0, 1, 2, 4, 5, 6, 7]
    assert np.array_equal(np.isin(is_.labels, [6, 7]), was.labels == 3)
    assert {6, 7} <= set(is_.labels.tolist())
    sizes = {c.id: c.size for c in after.clusters}
    assert sizes[6] + sizes[7] == before.clusters[3].size
    assert sizes[6] >= sizes[7]
    parts = [set(c.exemplars) for c in after.clusters if c.id in (6, 7)]
    assert parts[0] | parts[1] == set(before.clusters[3].exemplars)
    assert not parts[0] & parts[1]
    again = after.edit().undo().edit().split(3, into=2)
    assert {c.id for c in again.clusters} == {0, 1, 2, 4, 5, 8, 9}, "tags may carry 6 and 7"


def test_drop_makes_other(tmp_path: Path) -> None:
    before, rows = model(), grouped(3)[0]
    after = saved(before.edit().drop(5, 1), tmp_path)
    was, is_ = before.predict(rows), after.predict(rows)
    gone = np.isin(was.labels, [1, 5])
    assert gone.any()
    assert (is_.labels[gone] == -1).all()
    assert (is_.probabilities[gone] == 0).all()
    assert np.array_equal(is_.labels[~gone], was.labels[~gone])
    assert not np.isin(is_.candidates, [1, 5]).any()


def test_undo_takes_back_one_edit_after_the_other(tmp_path: Path) -> None:
    """After as many undos as edits all is as it was, but for the log and the numbers that are used."""
    before, rows = model(), grouped(3)[0]
    edited = before.edit().rename({0: "food"}).edit().merge(1, 2).edit().split(3, 2).edit().drop(0)
    for _ in range(4):
        edited = saved(edited, tmp_path).edit(who="bert").undo()
    assert edited.clusters == before.clusters
    assert np.array_equal(edited.predict(rows).labels, before.predict(rows).labels)
    assert effective(edited.edits) == []
    assert len(edited.edits) == 8
    assert edited.next_number == 8
    with pytest.raises(ModelError, match="nothing to undo"):
        edited.edit().undo()


def test_the_log_says_who_when_and_on_what(tmp_path: Path) -> None:
    """Each edit makes another version of the same taxonomy, and names the version that it was made on."""
    first = model()
    second = first.edit(who="anna").rename({3: " food "})
    third = saved(second.edit(who="bert").merge(0, 1), tmp_path)
    assert [edit.who for edit in third.edits] == ["anna", "bert"]
    assert [edit.on for edit in third.edits] == [first.version, second.version]
    assert all(edit.when.endswith("Z") for edit in third.edits)
    assert len({first.version, second.version, third.version}) == 3
    assert first.taxonomy == second.taxonomy == third.taxonomy
    assert third.name(3) == "food"


def test_names_by_number_and_by_order() -> None:
    """A mapping names by numbers and leaves the others; a list has one name for each cluster."""
    named = model().renamed({4: "cats"})
    assert [c.name for c in named.clusters] == [*(f"name {i}" for i in range(4)), "cats", "name 5"]
    after = model().edit().merge(0, 1).renamed({2: "dogs"})
    assert after.name(2) == "dogs"
    assert len(after.edits) == 2, "a model that was edited keeps this in its log too"
    for wrong, text in (
        ({9: "x"}, "no cluster 9 to name 'x': there are 0, 1"),
        (["only", "two"], "2 names for 6 clusters"),
        ("abcdef", "got the text 'abcdef'"),
        ({0: "a\nb"}, "one line"),
    ):
        with pytest.raises(ModelError, match=text):
            model().renamed(wrong)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda e: e.rename({4: "x"}), r"no cluster 4 \(4 merged into 2\): it has 0, 1, 2, 3, 5"),
        (lambda e: e.merge(2, 2), "two or more different clusters"),
        (lambda e: e.merge(2), "two or more different clusters"),
        (lambda e: e.split(17), "no cluster 17"),
        (lambda e: e.drop(), "keep at least one"),
        (lambda e: e.drop(0, 1, 2, 3, 5), "keep at least one"),
        (lambda e: e.split(0, into=40), "too small to split"),
    ],
)
def test_refusals_say_what_is_there(edit: object, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        edit(model().edit().merge(2, 4).edit())  # type: ignore[operator]


def test_the_map_shows_what_the_edits_made() -> None:
    """Rows of training images have the labels of the model; held-out ones go with their neighbours."""
    for after in (model().edit().merge(2, 4), model().edit().split(3, 2), model().edit().drop(0)):
        shown = np.asarray(after.map.column("cluster"))
        known = after.map_rows >= 0
        assert known.sum() == len(after.labels_)
        assert np.array_equal(shown[known], after.labels_[after.map_rows[known]])
        assert set(shown.tolist()) <= {-1, *(c.id for c in after.clusters)}


def test_drift_counts_what_people_see() -> None:
    """The reference of an edited model counts its clusters, and as many images as before."""
    before = Reference.of_model(model())
    after = Reference.of_model(model().edit().merge(2, 4).edit().split(3, 2))
    assert before is not None
    assert after is not None
    assert after.numbers.tolist() == [0, 1, 2, 5, 6, 7]
    assert after.tally.images == before.tally.images
    merged = after.tally.clusters[2]
    assert merged == before.tally.clusters[2] + before.tally.clusters[4]


def test_an_older_release_refuses_an_edited_folder(tmp_path: Path) -> None:
    """It would ignore the edits without a word; a folder without edits is read by both."""
    model().save(tmp_path / "plain")
    model().edit().drop(0).save(tmp_path / "edited")
    formats = [
        orjson.loads((tmp_path / n / "manifest.json").read_bytes())["format"] for n in ("plain", "edited")
    ]
    assert formats == [4, 5]


def test_a_folder_whose_edits_do_not_fit_is_refused(tmp_path: Path) -> None:
    """Clusters that the log does not make, and a log that nobody could write."""
    edited = model().edit().merge(2, 4)
    for wrong in (
        dataclasses.replace(edited, clusters=model().clusters),
        dataclasses.replace(edited, edits=(*edited.edits, edited.edits[0])),
        dataclasses.replace(edited, edits=(Edit(Undo(), "x", "y", "z"),)),
    ):
        wrong.__dict__["edit_map"] = edited.edit_map
        shutil.rmtree(tmp_path / "wrong", ignore_errors=True)
        wrong.save(tmp_path / "wrong")
        with pytest.raises(ModelError, match="edits"):
            ClusterModel.load(tmp_path / "wrong")
