"""The score for a target, and how right it is: measured, not promised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.errors import FitError
from imgclust.model.folder import FORMAT_OF_ASSIGNMENT
from imgclust.model.model import ClusterModel
from imgclust.predictor.assignment import TABLE, assign, assignable
from imgclust.training import agreement
from imgclust.training.agreement import ByLabels, ByRefits, Votes
from imgclust.training.fit import fit
from imgclust.training.other_target import measure, score_for
from imgclust.training.parameters import Parameters
from imgclust.training.split import Split
from imgclust.types import OTHER, Prediction
from tests.support import fitted
from tests.support.frozen_pair import embeddings
from tests.unit.imgclust.predictor.test_assignment import predictions


@given(predictions(), st.floats(0, 0.99))
def test_the_score_is_the_highest_that_meets_the_target(test: Prediction, target: float) -> None:
    """No more than the target stays in "other", or nothing else can be assigned; a higher score misses it."""
    score = score_for(test, target)
    after = assign(test, score)
    most = np.floor(target * len(test) + 1e-9)
    left = int((after.labels == OTHER).sum())
    assert left <= most or not assignable(after).any()
    if score is not None:
        higher = assign(test, np.nextafter(score, np.float32(2)))
        assert (higher.labels == OTHER).sum() > most


class _Known:
    by = "labels"

    def __init__(self, right: np.ndarray) -> None:
        self._right = right

    def votes(self, rows: np.ndarray, clusters: np.ndarray) -> Votes:
        return Votes((self._right[rows] == clusters).astype(np.int64), np.ones(len(rows), np.int64))


def made(labels: list[int], best: list[int], scores: list[float]) -> Prediction:
    n = len(labels)
    candidates, padded = np.full((n, 3), OTHER, np.int32), np.zeros((n, 3), np.float32)
    candidates[:, 0], padded[:, 0] = best, scores
    return Prediction(
        labels=np.array(labels, np.int32),
        probabilities=np.zeros(n, np.float32),
        points=np.zeros((n, 2), np.float32),
        novel=np.zeros(n, bool),
        candidates=candidates,
        scores=padded,
        similarities=np.zeros(n, np.float32),
        assigned=np.zeros(n, bool),
    )


def test_each_target_says_what_it_costs() -> None:
    """Of ten images five are in "other": the surer half of them is right, the rest is not."""
    test = made(
        [0, 0, 1, 1, 1] + [OTHER] * 5, [0, 0, 1, 1, 1, 0, 1, 0, 1, 0], [1] * 5 + [0.9, 0.8, 0.3, 0.2, 0.1]
    )
    truth = np.array([0, 0, 1, 1, 0, 0, 1, 1, 0, 1])
    found = measure(test, np.arange(10), 0.3, _Known(truth))
    by_target = {offer.target: offer for offer in found.offers}
    assert found.chosen is by_target[0.3]
    assert (found.chosen.right, found.chosen.judged, found.chosen.other) == (1.0, 2, 0.3)
    assert by_target[0.0].right == pytest.approx(0.4)
    assert found.inside == pytest.approx(0.8)
    assert found.table() == {"score": float(np.float32(0.8)), "target": 0.3}
    assert measure(test, np.arange(10), 0.6, _Known(truth)).table() is None


def test_labels_judge_by_what_a_cluster_mostly_is() -> None:
    """Images without a label, and clusters without labelled images, judge nothing."""
    labels = ["cat", "cat", "dog", "dog", None, None, "dog", "cat", None]
    judge = ByLabels(labels, np.arange(6), np.array([0, 0, 0, 1, 2, OTHER], np.int32))
    votes = judge.votes(np.array([6, 7, 8, 7]), np.array([0, 0, 0, 2], np.int32))
    assert votes.right.tolist() == [0, 1, 0, 0]
    assert votes.judged.tolist() == [1, 1, 0, 0]
    assert votes.share(np.ones(4, bool)) == 0.5
    assert votes.share(np.array([False, False, True, True])) is None


def test_refits_are_read_in_our_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refit numbers its clusters otherwise; each is the one of ours that most of its images are in."""
    rows = np.eye(40, dtype=np.float32)
    truth = np.arange(40) % 2

    def fit_sample(some: np.ndarray, p: Parameters) -> tuple[np.ndarray, np.ndarray]:
        return (1 - truth[some.argmax(axis=1)]).astype(np.int32), np.empty(0)

    monkeypatch.setattr(agreement, "fit_sample", fit_sample)
    split = Split(np.arange(30), np.arange(30, 40), np.arange(0))
    judge = ByRefits.of(rows, split, truth[:30].astype(np.int32), Parameters.for_size(30))
    votes = judge.votes(split.test, truth[30:].astype(np.int32))
    assert votes.judged.sum() > 0
    np.testing.assert_array_equal(votes.right, votes.judged)
    assert judge.votes(split.test, (1 - truth[30:]).astype(np.int32)).right.sum() == 0


def test_a_fit_meets_its_target(tmp_path: Path) -> None:
    """What the model assigns is in its folder, in its figures, and in what it predicts of held-out images."""
    rows, cloud = embeddings(400, 24, 5, seed=3)
    labels = [f"cloud {one}" if one >= 0 else None for one in cloud]
    # leaves of the tree are small, so much lies between them
    small = {**fitted.SMALL, "cluster_selection_method": "leaf", "refits": 0}
    result = fit(rows, parameters=small, seed=1, other_target=0.1, labels=labels, novel_rate=0)
    figures = result.figures["other_target"]
    assert figures["judged_by"] == "labels"
    assert figures["right_in_clusters"] > 0.9  # labels are those of their images, in whatever order it fits
    assert result.test.assigned.any()
    assert result.figures["test"]["other"] <= 0.1 < result.figures["train"]["other"]
    assert result.figures["test"]["assigned"] == pytest.approx(result.test.assigned.mean(), abs=1e-4)
    test = result.split.test
    np.testing.assert_array_equal(result.labels[test], result.test.unassigned().labels)
    model = result.model
    model.save(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "manifest.json").read_text())["format"] == FORMAT_OF_ASSIGNMENT
    loaded = ClusterModel.load(tmp_path / "model")
    assert loaded.version == model.version
    assert loaded.parameters[TABLE] == model.parameters[TABLE]
    again = loaded.predict(rows[test])
    np.testing.assert_array_equal(again.labels, result.test.labels)
    np.testing.assert_array_equal(again.assigned, result.test.assigned)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"other_target": 1.0}, "share from 0 to 1"),
        ({"other_target": 0.1, "test_fraction": 0.0}, "held-out"),
        ({"other_target": 0.1, "labels": ["a"]}, "1 labels for 300 images"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: dict, text: str) -> None:
    """Before hours of work."""
    with pytest.raises(FitError, match=text):
        fit(fitted.grouped()[0], parameters=fitted.SMALL, **arguments)
