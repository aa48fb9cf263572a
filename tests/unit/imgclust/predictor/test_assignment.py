"""What lies between clusters is put into its best candidate, from a score on; what is novel never is."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclust.errors import ModelError
from imgclust.predictor import compiled
from imgclust.predictor.assignment import TABLE, assign, assignable, threshold_of
from imgclust.predictor.predictor import FrozenPredictor
from imgclust.types import MAX_CANDIDATES, OTHER, Prediction
from tests.support.frozen_pair import embeddings, frozen_pair
from tests.support.strategies import of_any_length

SCORES = [
    sorted(scores, reverse=True)
    for scores in itertools.combinations_with_replacement([0.0, 0.125, 0.25, 0.5, 0.75, 1.0], MAX_CANDIDATES)
]
# one number draws a row
ROWS = [(label, novel, scores) for label in range(-1, 4) for novel in (False, True) for scores in SCORES]


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    """Any rows: in clusters or not, novel or not, with candidates or without."""
    rows = draw(of_any_length(st.sampled_from(ROWS), 0, 30))
    n = len(rows)
    labels = np.array([label for label, _, _ in rows], np.int32)
    scores = np.array([scores for _, _, scores in rows], np.float32).reshape(n, MAX_CANDIDATES)
    return Prediction(
        labels=labels,
        probabilities=np.where(labels < 0, 0, 0.5).astype(np.float32),
        points=np.zeros((n, 2), np.float32),
        novel=np.array([novel for _, novel, _ in rows], bool),
        candidates=np.where(scores > 0, np.arange(MAX_CANDIDATES, dtype=np.int32), np.int32(OTHER)),
        scores=scores,
        similarities=np.zeros(n, np.float32),
        assigned=np.zeros(n, bool),
    )


@given(predictions(), st.floats(2**-20, 1, width=32))
def test_only_what_is_between_clusters_moves(before: Prediction, score: float) -> None:
    """Those of "other" that are not novel, with a score that is high enough: its cluster, its score."""
    after = assign(before, np.float32(score))
    moved = after.assigned
    expected = (before.labels == OTHER) & ~before.novel & (before.scores[:, 0] >= np.float32(score))
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(after.labels[moved], before.candidates[moved, 0])
    np.testing.assert_array_equal(after.probabilities[moved], before.scores[moved, 0])
    assert (after.labels[moved] >= 0).all()
    for name in ("labels", "probabilities"):
        np.testing.assert_array_equal(getattr(after, name)[~moved], getattr(before, name)[~moved])
        assert getattr(after, name).dtype == getattr(before, name).dtype
    np.testing.assert_array_equal(after.unassigned().labels, before.labels)
    np.testing.assert_array_equal(after.unassigned().probabilities, before.probabilities)


def test_without_a_threshold_nothing_moves() -> None:
    """A model without the table says what it said before."""
    assert threshold_of({"umap": {}}) is None


@pytest.mark.parametrize("table", [{}, {"score": 0}, {"score": 1.5}, {"score": "0.5"}, {"score": True}, []])
def test_a_score_that_is_none_is_refused(table: object) -> None:
    """What a folder says is not believed."""
    with pytest.raises(ModelError, match="score"):
        threshold_of({TABLE: table})  # type: ignore[dict-item]


def test_every_engine_assigns_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy, C where it was built, and the code for GPUs: the same bits, and something is assigned."""
    arrays, frozen = frozen_pair()
    known = {**frozen, "novelty": {"threshold": -1.0}}
    rows = embeddings(400, 24, 5, seed=0)[0]
    plain = FrozenPredictor(arrays, known).predict(rows)
    open_ = assignable(plain)
    assert open_.any()
    score = float(np.median(plain.scores[open_, 0]))
    parameters = {**known, TABLE: {"score": score}}
    found = [FrozenPredictor(arrays, parameters, device=d).predict(rows) for d in ("cpu", "torch-cpu")]
    monkeypatch.setattr(compiled.Kernels, "of", staticmethod(lambda *_: None))
    found.append(FrozenPredictor(arrays, parameters).predict(rows))
    assert found[0].assigned.sum() == (plain.scores[open_, 0] >= np.float32(score)).sum() > 0
    for other in found[1:]:
        for field in dataclasses.fields(Prediction):
            np.testing.assert_array_equal(getattr(found[0], field.name), getattr(other, field.name))
