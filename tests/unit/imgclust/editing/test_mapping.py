"""Hand edits as a table: the same as following them one by one, whatever they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.editing.log import Drop, Edit, Merge, Part, Rename, Split, Undo
from imgclust.editing.mapping import EditMap
from imgclust.errors import ModelError
from imgclust.types import Prediction

FITTED = [0, 1, 2, 7, 9]


def edit(change: object) -> Edit:
    return Edit(change, "anna", "2026-11-28T10:00:00Z", "0" * 12)  # type: ignore[arg-type]


def split(cluster: int, *parts: tuple[int, float]) -> Split:
    """Parts on a line: each has a number and stands at a place."""
    return Split(cluster, tuple(Part(number, ((place, 0.0),)) for number, place in parts))


def prediction(labels: list[int], points: np.ndarray) -> Prediction:
    """Rows of a model whose clusters are counted 0..4: the label is the best of three candidates."""
    n = len(labels)
    first = np.array(labels, np.int32)
    candidates = np.stack([first, (first + 1) % 5, (first + 2) % 5], axis=1).astype(np.int32)
    candidates[first < 0] = -1
    scores = np.tile(np.array([0.5, 0.25, 0.125], np.float32), (n, 1))
    scores[first < 0] = 0
    return Prediction(
        labels=first,
        probabilities=np.where(first < 0, 0, 0.75).astype(np.float32),
        points=points,
        novel=np.zeros(n, bool),
        candidates=candidates,
        scores=scores,
        similarities=np.ones(n, np.float32),
        assigned=first >= 0,
    )


@st.composite
def logs(draw: st.DrawFn) -> list[Edit]:
    """Any edits that somebody could make, with undos in between."""
    alive, before, log, following = set(FITTED), [], [], 10
    for _ in range(draw(st.integers(0, 8))):
        kinds = ["rename", "drop", "split", "undo"] + ["merge"] * (len(alive) > 1)
        kind = draw(st.sampled_from([k for k in kinds if alive or k == "undo"]))
        if kind == "undo":
            if before:
                alive = before.pop()
                log.append(edit(Undo()))
            continue
        before.append(set(alive))
        one = draw(st.sampled_from(sorted(alive)))
        if kind == "rename":
            log.append(edit(Rename({one: "named"})))
        elif kind == "drop":
            log.append(edit(Drop((one,))))
            alive -= {one}
        elif kind == "merge":
            other = draw(st.sampled_from(sorted(alive - {one})))
            log.append(edit(Merge(one, (other,))))
            alive -= {other}
        else:
            places = draw(st.lists(st.floats(-3, 3, width=16), min_size=2, max_size=3, unique=True))
            log.append(edit(split(one, *((following + i, place) for i, place in enumerate(places)))))
            alive = (alive - {one}) | {following + i for i in range(len(places))}
            following += len(places)
    return log


def followed(log: list[Edit], number: int, x: float) -> int:
    """One image, edit by edit, as a reader of the log would follow them."""
    holding: list[object] = []
    for one in log:
        if isinstance(one.change, Undo):
            holding.pop()
        else:
            holding.append(one.change)
    for change in holding:
        if isinstance(change, Merge) and number in change.clusters:
            number = change.into
        elif isinstance(change, Drop) and number in change.clusters:
            number = -1
        elif isinstance(change, Split) and number == change.cluster:
            number = min(change.parts, key=lambda part: abs(np.float32(part.anchors[0][0]) - x)).cluster
    return number


@given(logs(), st.integers(-1, 4), st.floats(-4, 4, width=32))
def test_a_table_is_the_log_followed(log: list[Edit], fitted: int, x: float) -> None:
    """Compiled edits say what the edits say, one after the other."""
    map_ = EditMap.of(FITTED, log, 2)
    label = map_.labels(np.array([fitted], np.int32), np.array([[x, 0]], np.float32))
    assert label.dtype == np.int32
    assert label.tolist() == [followed(log, FITTED[fitted] if fitted >= 0 else -1, float(np.float32(x)))]
    assert label[0] in {-1, *map_.numbers[map_.alive].tolist()}


@given(logs(), st.lists(st.integers(-1, 4), min_size=1, max_size=20), st.integers(0, 9))
def test_a_row_does_not_depend_on_the_others(log: list[Edit], labels: list[int], seed: int) -> None:
    """A prediction of many rows is the predictions of each: whole arrays, bit for bit."""
    points = np.random.default_rng(seed).normal(size=(len(labels), 2)).astype(np.float32)
    map_ = EditMap.of(FITTED, log, 2)
    whole = map_.apply(prediction(labels, points))
    alone = [map_.apply(prediction([label], points[i : i + 1])) for i, label in enumerate(labels)]
    for field in dataclasses.fields(Prediction):
        joined = np.concatenate([getattr(one, field.name) for one in alone])
        assert np.array_equal(getattr(whole, field.name), joined)


@given(logs(), st.lists(st.integers(-1, 4), min_size=1, max_size=20), st.integers(0, 9))
def test_what_an_edited_prediction_promises(log: list[Edit], labels: list[int], seed: int) -> None:
    """Candidates differ, are sorted, padded, of clusters that are there; "other" has probability 0.

    What was assigned to a cluster that was dropped is assigned no more.
    """
    points = np.random.default_rng(seed).normal(size=(len(labels), 2)).astype(np.float32)
    map_ = EditMap.of(FITTED, log, 2)
    found = map_.apply(prediction(labels, points))
    alive = set(map_.numbers[map_.alive].tolist())
    assert (found.probabilities[found.labels == -1] == 0).all()
    np.testing.assert_array_equal(found.assigned, found.labels >= 0)
    for candidates, scores in zip(found.candidates.tolist(), found.scores.tolist(), strict=True):
        shown = [c for c in candidates if c >= 0]
        assert candidates == shown + [-1] * (3 - len(shown))
        assert len(set(shown)) == len(shown)
        assert set(shown) <= alive
        assert scores == sorted(scores, reverse=True)
        assert all(s == 0 for c, s in zip(candidates, scores, strict=True) if c < 0)


@given(logs(), st.lists(st.integers(0, 50), min_size=6, max_size=6), st.integers(0, 9))
def test_folded_counts_stay_whole(log: list[Edit], counts: list[int], seed: int) -> None:
    """Counts of fitted clusters become counts of edited ones: none is lost, none is where nothing can be."""
    map_ = EditMap.of(FITTED, log, 2)
    rng = np.random.default_rng(seed)
    fitted = np.arange(40, dtype=np.int32) % 5
    folded = map_.folded(counts, fitted, rng.normal(size=(40, 2)).astype(np.float32))
    assert sum(folded) == sum(counts)
    assert min(folded) >= 0
    gone = set(range(len(map_.numbers) - 1)) - set(map_.alive.tolist())
    assert all(folded[place] == 0 for place in gone)


def test_counts_of_a_split_follow_its_training_images() -> None:
    """A quarter of the training images in one part: a quarter of what was counted, too."""
    map_ = EditMap.of(FITTED, [edit(split(0, (10, 0.0), (11, 9.0)))], 2)
    points = np.array([[0, 0]] * 3 + [[9, 0]], np.float32)
    folded = map_.folded([40, 1, 2, 3, 4, 5], np.zeros(4, np.int32), points)
    assert folded == [0, 1, 2, 3, 4, 30, 10, 5]


def test_merged_candidates_add_up() -> None:
    """Two candidates that are one cluster now are one candidate."""
    map_ = EditMap.of(FITTED, [edit(Merge(2, (1,)))], 2)
    found = map_.apply(prediction([1], np.zeros((1, 2), np.float32)))
    assert found.labels.tolist() == [2]
    assert found.candidates.tolist() == [[2, 7, -1]]
    assert found.scores.tolist() == [[0.75, 0.125, 0]]


@pytest.mark.parametrize(
    "log",
    [
        [edit(Merge(0, (0,)))],
        [edit(Merge(0, (5,)))],
        [edit(Drop((0,))), edit(Rename({0: "gone"}))],
        [edit(Undo())],
        [edit(split(0, (1, 0.0), (10, 1.0)))],
        [edit(split(0, (10, 0.0), (10, 1.0)))],
        [edit(split(0, (10, 0.0), (11, 1.0))), edit(Undo()), edit(split(1, (11, 0.0), (12, 1.0)))],
        [edit(Split(0, (Part(10, ((0.0,),)), Part(11, ((0.0,),)))))],
    ],
)
def test_damaged_logs_are_refused(log: list[Edit]) -> None:
    """A log that no editor writes: clusters that are gone, numbers given twice, anchors of another space."""
    with pytest.raises(ModelError, match="hand edits is damaged"):
        EditMap.of(FITTED, log, 2)
