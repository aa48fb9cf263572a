"""The frozen predictor as a whole: a pure function, that refuses what is no embedding."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclust.errors import ModelError
from imgclust.predictor.predictor import FrozenPredictor
from imgclust.predictor.prepare import prepare
from imgclust.types import Prediction
from tests.support.frozen_pair import embeddings, frozen_pair

ARRAYS, PARAMS = frozen_pair()
PREDICTOR = FrozenPredictor(ARRAYS, PARAMS, threads=2)
_NEW, _CLOUD = embeddings(500, 24, 5, seed=0)
ROWS = np.concatenate([_NEW[_CLOUD >= 0][:50], _NEW[_CLOUD < 0][:46]])
ALL = PREDICTOR.predict(ROWS)


def assert_equal(got: Prediction, expected: Prediction, rows: object) -> None:
    for field in dataclasses.fields(Prediction):
        wanted = getattr(expected, field.name)[rows]
        assert getattr(got, field.name).tobytes() == wanted.tobytes(), field.name


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, len(ROWS) - 1), min_size=1, max_size=80))
def test_a_row_is_predicted_alike_in_every_batch(rows: list[int]) -> None:
    """Bit for bit the same for any choice, order, repetition and number of rows."""
    assert_equal(PREDICTOR.predict(ROWS[rows]), ALL, rows)


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_threads_change_nothing(threads: int) -> None:
    """Bit for bit the same for any number of threads, torch's own included."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads == 1 else 2)
        assert_equal(FrozenPredictor(ARRAYS, PARAMS, threads=threads).predict(ROWS), ALL, slice(None))
    finally:
        torch.set_num_threads(before)


def test_concurrent_calls_share_a_predictor() -> None:
    """Calls at the same time neither disturb each other nor lose a count."""
    predictor = FrozenPredictor(ARRAYS, PARAMS, threads=2)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(predictor.predict, [ROWS[i : i + 24] for i in range(0, 96, 24)]))
    assert_equal(Prediction.concat(parts), ALL, slice(None))
    assert predictor.rows == len(ROWS)


def test_prepared_arrays_are_a_function_of_the_fitted_ones() -> None:
    """Freezing twice gives the same bytes, and so the same model version."""
    once, again = prepare(ARRAYS, PARAMS), prepare(ARRAYS, PARAMS)
    for name, array in again.items():
        assert array.tobytes() == once[name].tobytes(), name


def test_folders_without_prepared_arrays_are_prepared() -> None:
    """A model that carries only the fitted arrays predicts the same."""
    fitted = {name: array for name, array in ARRAYS.items() if name not in prepare(ARRAYS, PARAMS)}
    expected = FrozenPredictor({**ARRAYS, **prepare(ARRAYS, PARAMS)}, PARAMS).predict(ROWS)
    assert_equal(FrozenPredictor(fitted, PARAMS).predict(ROWS), expected, slice(None))


def test_training_clouds_are_found() -> None:
    """New rows of a cloud get one label, with few exceptions; some that lie anywhere are "other"."""
    rows, cloud = embeddings(300, 24, 5, seed=0)
    trained = PREDICTOR.predict(rows)
    for c in range(5):
        counts = np.bincount(trained.labels[cloud == c] + 1)
        assert counts[1:].max() > 0.8 * counts.sum()
    assert (trained.labels[cloud < 0] < 0).any()


def test_candidates_name_clusters_best_first() -> None:
    """Scores fall, are within 0..1, and padding is -1 with score 0; a label is its first candidate."""
    assert (np.diff(ALL.scores, axis=1) <= 0).all()
    assert ((ALL.scores >= 0) & (ALL.scores <= 1)).all()
    assert ((ALL.candidates == -1) == (ALL.scores == 0)).all()
    sure = ALL.labels >= 0
    assert (ALL.candidates[sure, 0] == ALL.labels[sure]).all()
    assert (ALL.candidates[~sure, 0] >= 0).mean() > 0.5, "other must have candidates"


def test_novel_is_judged_by_the_nearest_and_the_middle() -> None:
    """Novel means a cosine below the threshold to all training rows, or one below the other to their mean
    direction; clouds left out of training are."""
    training = ARRAYS["embeddings"].astype(np.float64)
    cosine = (ROWS @ training.T / np.linalg.norm(training, axis=1)).max(1) / np.linalg.norm(ROWS, axis=1)
    same = np.abs(ALL.similarities - cosine) < 1e-6
    assert same.mean() > 0.97  # the nearest of a row that lies anywhere can be in a cell that is not read
    assert (ALL.similarities[~same] < cosine[~same]).all()
    mean = training.sum(0)
    central = ROWS @ mean / np.linalg.norm(mean)
    assert np.abs(central + 0.1).min() > 1e-3, "rounding the middle decides nothing here"
    assert (ALL.novel[same] == ((cosine < 0.55) | (central < -0.1))[same]).all()
    assert ((cosine >= 0.55) & (central < -0.1)).any()
    assert ((cosine < 0.55) & (central >= -0.1)).any()
    left_out, cloud = embeddings(100, 24, 40, seed=7)
    assert PREDICTOR.predict(left_out[cloud >= 0]).novel.mean() > 0.4
    assert not ALL.novel[:50].any()


def test_training_rows_stay_near_their_places() -> None:
    """A training embedding that is predicted again lands nearer to its own place than to most others."""
    rows = ARRAYS["embeddings"][:50].astype(np.float32)
    moved = np.linalg.norm(PREDICTOR.predict(rows).points - ARRAYS["points"][:50], axis=1)
    assert np.median(moved) < 0.6


def test_arrays_are_contiguous() -> None:
    """hdbscan's Cython reads the memory of the points it is given as if it were contiguous: ours is."""
    for field in dataclasses.fields(Prediction):
        assert getattr(ALL, field.name).flags.c_contiguous, field.name


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("kd_order", np.zeros(600, dtype=np.int32)),
        ("kd_order", np.arange(600, dtype=np.int32) + 1),
        ("codes", ARRAYS["codes"][:32]),
        ("codes", ARRAYS["codes"].astype(np.int16)),
        ("squares", ARRAYS["squares"][:9]),
        ("code_rows", ARRAYS["code_rows"] + 1),
        ("cell_starts", ARRAYS["cell_starts"] + 1),
        ("cell_starts", ARRAYS["cell_starts"][[0, 2, 1, *range(3, len(ARRAYS["cell_starts"]))]]),
        ("cell_centres", ARRAYS["cell_centres"][1:]),
        ("cell_margin", np.array([-1], dtype=np.int32)),
        ("code_scale", np.array([-1.0])),
        ("repulsion", ARRAYS["repulsion"].astype(np.float64)),
    ],
)
def test_damaged_arrays_are_refused(name: str, array: np.ndarray) -> None:
    """Prepared arrays that point outside each other are refused by name before anything is searched."""
    with pytest.raises(ModelError, match=name):
        FrozenPredictor({**ARRAYS, name: array}, PARAMS)


def test_no_rows() -> None:
    """An empty batch is answered with empty arrays of the right types and widths."""
    nothing = PREDICTOR.predict(ROWS[:0])
    for field in dataclasses.fields(Prediction):
        got, like = getattr(nothing, field.name), getattr(ALL, field.name)
        assert got.dtype == like.dtype
        assert got.shape == (0, *like.shape[1:])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (np.full(24, np.nan), "embedding 2 holds NaN"),
        (np.full(24, np.inf), "embedding 2 holds NaN or infinity"),
        (np.zeros(24), "embedding 2 is all zeros"),
        (np.full(24, 3.0), "embedding 2 is not of unit length"),
        (np.full(24, 1 / 3), "embedding 2 is not rounded to float16"),
    ],
)
def test_what_is_no_embedding_is_refused(row: np.ndarray, says: str) -> None:
    """NaN, infinity, zeros, values too large or too fine: an error that names the row, never a label."""
    rows = ROWS[:4].copy()
    rows[2] = row
    with pytest.raises(ValueError, match=says):
        PREDICTOR.predict(rows)


@pytest.mark.parametrize("rows", [ROWS[:, :20], ROWS[0], ROWS[None]])
def test_other_shapes_are_refused(rows: np.ndarray) -> None:
    """A wrong dimension or number of axes is named."""
    with pytest.raises(ValueError, match=r"shape \(m, 24\)"):
        PREDICTOR.predict(rows)


@pytest.mark.parametrize("rows", [ROWS.astype(np.float64), ROWS.astype(np.float16), ROWS.tolist()])
def test_other_types_are_refused(rows: object) -> None:
    """Another dtype, or no array at all, is named."""
    with pytest.raises(ValueError, match="float32"):
        PREDICTOR.predict(rows)


@pytest.mark.parametrize(("table", "metric"), [("umap", "manhattan"), ("hdbscan", "manhattan")])
def test_other_metrics_are_refused(table: str, metric: str) -> None:
    """A model of a metric that cannot be predicted is refused when it is loaded."""
    params = {**PARAMS, table: {**PARAMS[table], "metric": metric}}
    with pytest.raises(ValueError, match="manhattan"):
        FrozenPredictor(ARRAYS, params)
