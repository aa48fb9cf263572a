"""Classes and golden images of a model: a number of their own, kept in the folder, undone, and nowhere in the
way of the clusters."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from imgclust.editing.golden_check import golden_images
from imgclust.editing.parsing import as_half
from imgclust.editing.thresholds import from_examples
from imgclust.errors import ModelError
from imgclust.model.drift import Reference
from imgclust.model.folder import EXEMPLARS
from imgclust.model.model import ClusterModel
from imgclust.types import Prediction
from tests.support.fitted import fitted, grouped


def kind(number: int, seed: int, each: int = 20) -> np.ndarray:
    """Images of a kind: 0 to 5 are in the model, 6 and 7 are not."""
    rows, group = grouped(seed=seed, groups=8, each=each)
    return rows[group == number]


def plain() -> ClusterModel:
    return fitted().model


@cache
def with_class() -> ClusterModel:
    """Kind 6, which no training image shows, is class 6."""
    rule = from_examples(kind(6, 1), plain().arrays["embeddings"].astype(np.float32), 0.95)
    return plain().edit(who="anna").add_class("receipts", rule)


@cache
def inside() -> ClusterModel:
    """One cluster's images are examples: a class that takes training images."""
    model = plain()
    own = model.arrays["embeddings"][model.labels_ == 2].astype(np.float32)
    return model.edit().add_class("twos", from_examples(own, kind(6, 3), 0.95))


def saved(model: ClusterModel, folder: Path) -> ClusterModel:
    model.save(folder / "model")
    return ClusterModel.load(folder / "model")


def test_a_class_comes_before_the_clusters(tmp_path: Path) -> None:
    """New images of it have its number and name, and the precision as probability; all others are as before,
    to the bit. The folder keeps it."""
    model = saved(with_class(), tmp_path)
    found = model.predict(kind(6, 9))
    assert (found.labels == 6).mean() > 0.8
    assert set(found.probabilities[found.labels == 6].tolist()) == {float(np.float32(0.95))}
    assert model.name(6) == "receipts"
    assert [c.id for c in model.clusters if c.is_class] == [6]
    rows, _ = grouped(seed=3)
    before, after = plain().predict(rows), model.predict(rows)
    assert np.array_equal(before.labels, after.labels)
    assert np.array_equal(before.scores, after.scores)
    assert model.taxonomy == plain().taxonomy
    assert model.version == with_class().version != plain().version


def test_pictures_of_examples_are_kept(tmp_path: Path) -> None:
    """As many as a cluster has, under ids that are no image's, whatever the files are called; a class that is
    removed is not shown."""
    pictures = {"0": b"RIFF zero", "two\nlines": b"RIFF two", **{f"{i}.png": b"RIFF" for i in range(40)}}
    rule = from_examples(kind(6, 1), plain().arrays["embeddings"].astype(np.float32), 0.95)
    model = saved(plain().edit().add_class("receipts", rule, pictures), tmp_path)
    shown = model.clusters[-1].exemplars
    assert (len(shown), shown[:3]) == (EXEMPLARS, ("class 6: 0", "class 6: example 1", "class 6: 0.png"))
    assert [model.thumbnails[image] for image in shown[:2]] == [b"RIFF zero", b"RIFF two"]
    assert model.edit().remove_class("receipts").clusters == plain().clusters
    assert {one.id: one for one in model.clusters[:-1]} == {one.id: one for one in plain().clusters}


def test_batches_do_not_matter() -> None:
    """One by one, in threes and at once."""
    rows = np.concatenate([kind(6, 9)[:9], grouped(seed=3)[0][:9]])
    whole = with_class().predict(rows)
    for size in (1, 3):
        parts = [with_class().predict(rows[i : i + size]) for i in range(0, len(rows), size)]
        again = Prediction.concat(parts)
        assert np.array_equal(whole.labels, again.labels)
        assert whole.scores.tobytes() == again.scores.tobytes()


def test_training_images_can_be_of_a_class(tmp_path: Path) -> None:
    """They are counted in it, have its label, and are its typical images; the map and drift agree."""
    model = saved(inside(), tmp_path)
    (own,) = (c for c in model.clusters if c.is_class)
    assert own.size == (model.labels_ == own.id).sum() > 20
    assert sum(c.size for c in model.clusters) == (model.labels_ >= 0).sum()
    assert own.exemplars
    assert set(own.exemplars) <= set(plain().clusters[2].exemplars)
    known = model.map_rows >= 0
    shown = np.asarray(model.map.column("cluster"))[known]
    assert np.array_equal(shown, model.labels_[model.map_rows[known]])
    before, after = Reference.of_model(plain()), Reference.of_model(model)
    assert before is not None
    assert after is not None
    assert after.numbers.tolist() == [c.id for c in model.clusters]
    assert after.tally.images == before.tally.images
    counts = dict(zip([*after.numbers.tolist(), -1], after.tally.clusters.tolist(), strict=True))
    assert counts[own.id] + counts[2] == before.tally.clusters[2]
    assert counts[own.id] > 0
    counted = after.count(model.predict(kind(2, 8)))
    assert counted.images == 20
    assert counted.probabilities.sum() == counted.clusters[:-2].sum()  # neither of the class nor of "other"


def test_numbers_are_never_given_again(tmp_path: Path) -> None:
    """Removed or undone, a class's number stays used; its images belong to the clusters again."""
    rule = from_examples(kind(7, 1), kind(6, 1), 0.95)
    removed = saved(with_class().edit().remove_class("receipts"), tmp_path)
    assert removed.next_number == 7
    assert np.array_equal(removed.predict(kind(6, 9)).labels, plain().predict(kind(6, 9)).labels)
    again = removed.edit().add_class("receipts", rule)
    assert [c.id for c in again.clusters if c.is_class] == [7]
    undone = saved(with_class().edit().undo(), tmp_path)
    assert not [c for c in undone.clusters if c.is_class]
    assert undone.edit().split(3, 2).clusters[-1].id == 8
    both = removed.edit().undo()
    assert [c.id for c in both.clusters if c.is_class] == [6]


def test_a_class_can_be_renamed_and_nothing_else() -> None:
    """Clusters can still be merged, split and dropped beside it."""
    model = with_class().edit().rename({6: "bills"}).edit().merge(0, 1)
    assert model.name(6) == "bills"
    assert (model.predict(kind(6, 9)).labels == 6).mean() > 0.8
    rule = from_examples(kind(7, 1), kind(6, 1), 0.95)
    for refused, text in (
        (lambda e: e.merge(0, 6), "6 is the class 'bills', not a cluster"),
        (lambda e: e.split(6), "6 is the class"),
        (lambda e: e.drop(6), "6 is the class"),
        (lambda e: e.drop(0, 2, 3, 4, 5), "keep at least one"),
        (lambda e: e.add_class("bills", rule), "a name of its own, got 'bills': class 6 has it"),
        (lambda e: e.add_class(" ", rule), "it is empty"),
        (lambda e: e.remove_class("receipts"), r"no class 'receipts': its classes are 6 'bills'"),
        (lambda e: e.remove_class(3), "no class 3"),
    ):
        with pytest.raises(ModelError, match=text):
            refused(model.edit())


def test_golden_images(tmp_path: Path) -> None:
    """Kept in the folder, checked by prediction, followed through edits, replaced and removed."""
    receipt, two = kind(6, 9)[0], kind(2, 9)[0]
    wanted = int(plain().predict(two[None]).labels[0])
    model = with_class().edit().add_golden("receipt.jpg", receipt, [6]).edit().add_golden("2", two, [wanted])
    model = saved(model.edit().add_golden("2", two, [6], never=True), tmp_path)
    assert model.check_golden() == []
    wrong = model.edit().add_golden("2", two, [6])
    assert [(one.golden.image, one.label) for one in wrong.check_golden()] == [("2", wanted)]
    merged = model.edit().merge((wanted + 1) % 6, wanted)
    assert merged.check_golden() == []
    assert [one.golden.image for one in model.edit().undo().edit().remove_class(6).check_golden()] == []
    assert model.edit().remove_golden("2").edits[-1].who
    assert plain().check_golden() == []
    for refused, text in (
        (lambda e: e.add_golden("a", two, [17]), "no cluster 17"),
        (lambda e: e.add_golden("a", two[:5], [2]), "an embedding of 24 numbers"),
        (lambda e: e.add_golden("a\nb", two, [2]), "must be one line"),
        (lambda e: e.remove_golden("nobody"), "'nobody' is not a golden image"),
    ):
        with pytest.raises(ModelError, match=text):
            refused(model.edit())


def test_typical_images_of_an_edit_become_golden() -> None:
    """Three of each cluster, which the model itself puts there; the edit is followed, and undone alone."""
    model = plain().edit(who="anna").keep_typical(0, 1).edit().merge(0, 1)
    golden = golden_images(model.edits)
    assert 4 <= len(golden) <= 6
    assert {one.clusters for one in golden} == {(0,)}
    assert {edit.who for edit in model.edits[:-1]} == {"anna"}
    assert not model.check_golden()
    undone = model.edit().undo()
    assert {one.clusters for one in golden_images(undone.edits)} == {(0,), (1,)}
    assert not undone.check_golden()


def test_a_log_of_another_space_is_refused(tmp_path: Path) -> None:
    """A class whose vectors do not have the width of the model's embeddings."""
    rule = from_examples(np.eye(8, dtype=np.float32), np.empty((0, 8), np.float32), 0.95)
    assert rule.vectors[0] == as_half(np.eye(8, dtype=np.float32)[0])
    with pytest.raises(ModelError, match="not of 24 numbers"):
        plain().edit().add_class("narrow", rule)
