"""Which new cluster is which previous one: pure matching and numbering, and how it is told."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from imgclust.errors import ModelError
from imgclust.model.parts import Cluster
from imgclust.model.taxonomy import Continuation, contingency, continued, match, overlaps
from imgclust.report.taxonomy import hint, sheets, table
from imgclust.types import OTHER


@dataclasses.dataclass(frozen=True)
class Images:
    """What the previous and the new model say of the same images."""

    before: np.ndarray
    after: np.ndarray


@dataclasses.dataclass(frozen=True)
class Case:
    """The previous model's images and the new one's, and the numbers of the previous one's clusters."""

    images: tuple[Images, Images]
    numbers: list[int]
    k: int
    following: int

    @property
    def shared(self) -> tuple[np.ndarray, np.ndarray]:
        clusters = len(self.numbers), self.k
        one, two = (contingency(images.before, images.after, clusters) for images in self.images)
        return one, two

    @property
    def sizes(self) -> list[int]:
        own = self.images[1].after
        return np.bincount(own[own >= 0], minlength=self.k).tolist()

    def result(self) -> Continuation:
        clusters = [Cluster(n, f"name {n}", 10 + n) for n in self.numbers]
        return continued(self.shared, self.sizes, clusters, following=self.following, version="v")


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Random labels, or ones that mostly agree, so that matches are common."""
    numbers = draw(st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True))
    k = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))

    def images() -> Images:
        n, disagreement = draw(st.integers(0, 80)), draw(st.sampled_from([0.0, 0.1, 0.3, 1.0]))
        before = rng.integers(-1, len(numbers), n).astype(np.int32)
        after = np.where(before < k, before, OTHER)
        after = np.where(rng.random(n) < disagreement, rng.integers(-1, k, n), after).astype(np.int32)
        return Images(before, after)

    return Case((images(), images()), numbers, k, 1 + max(numbers) + draw(st.integers(0, 5)))


@given(cases())
def test_numbers_are_never_reused(case: Case) -> None:
    """Each cluster has a number of its own: that of the one cluster that it is, or one never used. Kept and
    retired ones are all that there were."""
    found = case.result()
    assert len(set(found.numbers)) == case.k
    fresh = [c.number for c in found.new]
    assert fresh == list(range(case.following, case.following + len(fresh)))
    kept, retired = {c.number for c in found.kept}, {c.number for c in found.retired}
    assert kept | retired == set(case.numbers)
    assert not kept & retired
    assert all(c.overlap is not None and c.overlap > 0.5 for c in found.kept)


@given(cases())
def test_a_match_is_the_best_one_to_one_assignment(case: Case) -> None:
    """No assignment of clusters has a larger overlap than the one found, among the pairs that count."""
    matched = match(case.shared)
    old = matched[matched >= 0]
    assert len(set(old.tolist())) == len(old)
    index = overlaps(case.shared)
    rows, columns = linear_sum_assignment(np.where(index > 0.5, index, 0.0), maximize=True)
    best = {(r, c) for r, c in zip(rows.tolist(), columns.tolist(), strict=True) if index[r, c] > 0.5}
    ours = {(int(r), c) for c, r in enumerate(matched) if r >= 0}
    assert ours <= best
    for r, c in best - ours:  # most of the images of one of them are "other" to the other model
        row, column = case.shared[0][r], case.shared[1][:, c]
        assert 5 * row[-1] > 3 * row.sum() or 5 * column[-1] > 3 * column.sum()


@given(cases(), st.integers(0, 10**6))
def test_the_order_of_labels_changes_nothing(case: Case, seed: int) -> None:
    """Permute the labels of either model, and the images: the same clusters keep the same numbers."""
    rng = np.random.default_rng(seed)
    old, new = rng.permutation(len(case.numbers)), rng.permutation(case.k)

    def reordered(images: Images) -> Images:
        order = rng.permutation(len(images.before))
        before = np.append(old, OTHER).astype(np.int32)[images.before]
        return Images(before[order], np.append(new, OTHER).astype(np.int32)[images.after][order])

    renamed = Case(
        (reordered(case.images[0]), reordered(case.images[1])),
        [case.numbers[i] for i in np.argsort(old)],
        case.k,
        case.following,
    )
    one, two = case.result(), renamed.result()
    assert sorted(one.numbers) == sorted(two.numbers)
    assert one.retired == two.retired or {r.number for r in one.retired} == {r.number for r in two.retired}
    for c in range(case.k):
        before, after = one.clusters[c], two.clusters[int(new[c])]
        assert (before.overlap, before.before, before.size) == (after.overlap, after.before, after.size)
        if before.overlap is not None or case.sizes.count(before.size) == 1:
            assert before.number == after.number


@given(cases())
def test_a_model_keeps_all_of_its_own_numbers(case: Case) -> None:
    """The same labels twice: all clusters that have images keep their numbers, with an overlap of 1."""
    images = Images(case.images[0].before, case.images[0].before)
    same = dataclasses.replace(case, images=(images, images), k=len(case.numbers))
    found = same.result()
    for cluster, number, size in zip(found.clusters, same.numbers, same.sizes, strict=True):
        if size:
            assert (cluster.number, cluster.overlap) == (number, 1.0)
            assert not cluster.came
    assert found == same.result()


@given(cases())
def test_it_is_kept_and_told(case: Case) -> None:
    """What is stored reads as it was, through JSON too; and every cluster has its line in both tables."""
    found = case.result()
    assert Continuation.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    names = {n: f"\x1b[31m{n}" for n in found.numbers}
    lines = list(table(found, "t", names))
    assert not any("\x1b" in line for line in lines)
    all_numbers = [c.number for c in (*found.kept, *found.new, *found.retired)]
    assert [int(line.split()[0]) for line in lines if line.split()[0].isdigit()] == all_numbers
    rows = [row for sheet in list(sheets(found, "t", {}))[1:] for row in sheet["rows"]]
    assert [int(row[0].split()[0][1:]) for row in rows] == all_numbers


def result(shared: list[list[int]]) -> Continuation:
    """Previous clusters 0, 1, …, named a, b, …; sizes as shared, and the same over the images of either."""
    counts = np.array(shared, np.int64)
    clusters = [Cluster(i, "abcdef"[i], int(row.sum())) for i, row in enumerate(counts[:-1])]
    sizes = counts[:, :-1].sum(axis=0).tolist()
    return continued((counts, counts), sizes, clusters, following=len(clusters), version="v")


def test_half_is_not_enough() -> None:
    """An overlap of exactly a half is no match, one image more is; so there are no ties."""
    assert result([[10, 0, 0], [10, 0, 0], [0, 5, 0]]).numbers == [2, 3]
    assert result([[11, 0, 0], [10, 0, 0], [0, 5, 0]]).numbers == [0, 2]


def test_what_is_other_to_the_other_model_says_nothing() -> None:
    """Two clusters that share all that both models know of, but of one of which the other model knows less
    than two fifths, are not the same."""
    assert result([[10, 15], [15, 0]]).numbers == [0]
    assert result([[10, 16], [15, 0]]).numbers == [1]
    assert result([[10, 15], [16, 0]]).numbers == [1]


def test_both_models_have_to_agree() -> None:
    """What the previous model finds of a cluster among the new images counts no more than what the new model
    finds of it among the previous ones: one without the other is no match."""
    cluster = [Cluster(0, None, 20)]
    yes, no = np.array([[20, 0], [0, 0]]), np.array([[0, 20], [0, 0]])
    for shared in ((yes, no), (no, yes)):
        assert continued(shared, [20], cluster, following=1, version="v").numbers == [1]
    assert continued((yes, yes), [20], cluster, following=1, version="v").numbers == [0]


def test_new_numbers_go_by_size() -> None:
    """The largest new cluster gets the first free number."""
    assert result([[0, 0, 20, 0], [3, 9, 0, 0]]).numbers == [2, 1, 0]


@pytest.mark.parametrize(
    ("shared", "told"),
    [
        ([[45, 45, 10], [0, 0, 0]], {1: "split off #0 a (100 %)", 2: "split off #0 a (100 %)"}),
        ([[45, 45, 10], [0, 0, 0]], {0: "split into #1 (45 %), #2 (45 %)"}),
        (
            [[30, 0], [30, 0], [0, 0]],
            {2: "merged from #0 a (50 %), #1 b (50 %)", 1: "merged into #2 (100 %)"},
        ),
        ([[60, 0], [30, 0], [0, 0]], {0: "also from #1 b (33 %)", 1: "merged into #0 a (100 %)"}),
        ([[0, 10], [30, 0]], {0: "100 % are in no cluster now", 1: "100 % were in no cluster before"}),
        ([[30, 0], [0, 0], [0, 0]], {0: "", 1: "scattered"}),
        ([[40, 40, 40, 40, 40, 0], [0, 0, 0, 0, 0, 0]], {0: "scattered"}),
        ([[16, 8], [14, 0]], {0: "also from no cluster (47 %)"}),
        ([[9, 8, 8, 0], [0, 0, 0, 0]], {0: "split into #1 (36 %), #2 (32 %), #3 (32 %)"}),
        (
            [[40, 40, 20], [0, 30, 0]],
            {0: "split into #2 (40 %), #1 (40 %)", 1: "split off #0 a (57 %), no cluster"},
        ),
    ],
)
def test_splits_and_mergers_are_told(shared: list[list[int]], told: dict[int, str]) -> None:
    """The hint beside a cluster says where most of it came from, or went."""
    found = result(shared)
    names = {c.number: c.name for c in found.retired} | {c.number: "abcdef"[c.number] for c in found.kept}
    hints = {c.number: hint(c, names) for c in (*found.clusters, *found.retired)}
    for number, text in told.items():
        assert hints[number].startswith(text) if text else hints[number] == "", hints


GOOD = result([[11, 0, 0], [10, 0, 0], [0, 5, 0]]).to_dict()


@settings(max_examples=50)
@given(st.sampled_from(sorted(GOOD)), st.sampled_from([None, "x", [1], [{}], {}, float("inf")]))
def test_a_damaged_record_is_refused(key: str, value: Any) -> None:
    """A model folder may come from anywhere: what is no such record is a ModelError, never another."""
    try:
        Continuation.from_dict({**GOOD, key: value})
    except ModelError as error:
        assert "how it continues its taxonomy is damaged" in str(error)
    else:
        assert key == "previous" or value == {}


def test_a_cluster_that_means_something_else_gets_a_number_of_its_own() -> None:
    """However many images it shares with the one before; what moved less keeps it, with a warning."""
    shared = np.array([[50, 0, 0], [0, 50, 0], [0, 0, 50], [0, 0, 0]])
    before = [Cluster(i, None, 50) for i in (3, 4, 5)]
    meaning = np.diag([0.95, 0.3, -0.1])
    both = np.pad(shared, ((0, 0), (0, 1)))
    found = continued((both, both), [50] * 3, before, following=9, version="v", meaning=meaning)
    assert found.numbers == [3, 4, 9]
    assert [c.has_moved for c in found.clusters] == [False, True, False]
    assert [c.meaning for c in found.clusters] == [0.95, 0.3, None]
    assert [c.number for c in found.retired] == [5]
    assert Continuation.from_dict(found.to_dict()) == found
