"""Which namer has the word: people before namers, the first namer that has a name before the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest

from imgclust.cli.arguments import main
from imgclust.errors import ImgclustError
from imgclust.model.model import ClusterModel
from imgclust.naming import namers
from imgclust.naming.clusters import found_clusters
from imgclust.naming.namers import OURS, Namer, NamingOptions, load_namer, proposed
from tests.support.fitted import fitted


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Gives the same names to any model."""

    given: Mapping[int, str | None]

    def names(self, model: ClusterModel) -> Mapping[int, str | None]:
        return self.given


def fixed(_: NamingOptions) -> Namer:
    return Fixed({0: "from elsewhere"})


def test_the_first_that_has_a_name() -> None:
    """Namers are asked in order; names that are no line and clusters that nobody knows stay without."""
    first = Fixed({0: "zero", 1: None, 2: "two\nlines", 99: "no such cluster"})
    found = proposed(fitted().model, [first, Fixed({0: "nought", 1: "one"})])
    assert found[0] == "zero"
    assert found[1] == "one"
    assert found[2] is None
    assert 99 not in found


def test_names_by_people_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A namer does not replace a name given by hand, but one that a namer gave; undo takes a naming back."""
    monkeypatch.setitem(OURS, "fixed", lambda _: Fixed({0: "zero", 1: "one"}))
    monkeypatch.setitem(OURS, "other", lambda _: Fixed({0: "nought", 1: "eins"}))
    folder = tmp_path / "model"
    fitted().model.save(folder)
    assert main(["names", str(folder), "--set", "0=by hand"]) == 0
    assert main(["names", str(folder), "--by", "fixed"]) == 0
    model = ClusterModel.load(folder)
    assert (model.name(0), model.name(1)) == ("by hand", "one")
    assert main(["names", str(folder), "--by", "other"]) == 0
    assert ClusterModel.load(folder).name(1) == "eins"
    assert main(["edit", str(folder), "undo"]) == 0
    assert ClusterModel.load(folder).name(1) == "one"
    assert [edit.who.split(" (")[0] for edit in ClusterModel.load(folder).edits[1:3]] == [
        "names --by fixed", "names --by other",
    ]  # fmt: skip


def test_nothing_new_is_no_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same names again leave the folder as it is: no version, no line in the log."""
    monkeypatch.setitem(OURS, "fixed", lambda _: Fixed({0: "zero"}))
    folder = tmp_path / "model"
    fitted().model.save(folder)
    for _ in range(2):
        assert main(["names", str(folder), "--by", "fixed"]) == 0
    assert len(ClusterModel.load(folder).edits) == 1


def test_other_packages_bring_namers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point of the group is a namer; a name that there is not lists those that there are."""
    entry = EntryPoint("elsewhere", f"{__name__}:fixed", namers.GROUP)
    monkeypatch.setattr(namers, "entry_points", lambda group: EntryPoints([entry]).select(group=group))
    assert load_namer("elsewhere", NamingOptions()).names(fitted().model) == {0: "from elsewhere"}
    with pytest.raises(ImgclustError, match=r"nothing names clusters by 'nobody'; known are .*elsewhere"):
        load_namer("nobody", NamingOptions())


@pytest.mark.parametrize(("name", "missing"), [("attribute", "--attribute"), ("endpoint", "--endpoint")])
def test_a_namer_says_what_it_needs(name: str, missing: str) -> None:
    """Options that a namer cannot do without are named."""
    with pytest.raises(ImgclustError, match=missing):
        load_namer(name, NamingOptions())


def test_by_phrases(tmp_path: Path) -> None:
    """Phrases that lie at the clusters' centres name them, edited clusters too."""
    model = fitted().model
    edited = model.edit().merge(model.clusters[0].id, model.clusters[1].id)
    rows = {c.id: edited.arrays["embeddings"][edited.labels_ == c.id].mean(axis=0) for c in edited.clusters}
    vocabulary = [f"phrase {number}" for number in rows], np.array(list(rows.values()))
    namer = load_namer("phrases", NamingOptions(vocabulary=lambda _: vocabulary))
    found = namer.names(edited)
    assert set(found) == set(rows)
    assert {name for name in found.values() if name} <= {f"phrase {n}" for n in rows}
    assert all(name is None or name == f"phrase {number}" for number, name in found.items())


def test_classes_are_not_named() -> None:
    """People define and name classes, and a cluster without images has nothing to be named by."""
    model = fitted().model
    first, second, *others = model.clusters
    clusters = (dataclasses.replace(first, is_class=True), dataclasses.replace(second, id=99), *others)
    seen = dataclasses.replace(model, clusters=clusters, fitted=model.clusters)
    assert [c.id for c in found_clusters(seen)] == [c.id for c in others]
