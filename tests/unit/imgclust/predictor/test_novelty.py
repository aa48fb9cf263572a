"""Novel images: far from the nearest training image, or from the middle of them all."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from imgclust.errors import FitError, ModelError
from imgclust.model.model import ClusterModel
from imgclust.predictor import novelty
from imgclust.predictor.novelty import NOVEL_RATE
from imgclust.predictor.predictor import FrozenPredictor
from imgclust.training.fit import fit
from tests.support import fitted
from tests.support.frozen_pair import unit_half


def cone(n: int, seed: int, dim: int = 32) -> np.ndarray:
    """Embeddings as encoders make them: all of them share a direction, and groups lie close together."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(12, dim))
    centres[:, 0] += 9
    return unit_half(centres[rng.integers(12, size=n)] + 0.5 * rng.normal(size=(n, dim)))


def nearest(rows: np.ndarray, training: np.ndarray) -> np.ndarray:
    return (rows @ training.T).max(1).astype(np.float32)


def calibrated(training: np.ndarray, held_out: np.ndarray, rate: float = NOVEL_RATE) -> dict[str, float]:
    middle = novelty.mean_direction(training)
    return novelty.calibrate(training, middle, held_out, nearest(held_out, training), rate)


@given(seed=st.integers(0, 999), rows=st.integers(1, 40), dim=st.integers(1, 1300))
def test_the_cosine_to_the_middle_is_exact_in_any_order(seed: int, rows: int, dim: int) -> None:
    """Permuting the numbers of the embeddings, or taking rows alone, changes no bit."""
    rng = np.random.default_rng(seed)
    embeddings, order = unit_half(rng.normal(size=(rows, dim))), rng.permutation(dim)
    middle = novelty.mean_direction(unit_half(rng.normal(size=(5, dim))))
    cosines = novelty.cosines_to(middle, embeddings)
    np.testing.assert_array_equal(cosines, novelty.cosines_to(middle[order], embeddings[:, order]))
    alone = [novelty.cosines_to(middle, row[None])[0] for row in embeddings]
    np.testing.assert_array_equal(cosines, alone)


@given(rate=st.sampled_from([0.0, 0.001, 0.004, 0.02, 0.2]), seed=st.integers(0, 50))
def test_calibrated_images_are_novel_at_most_at_the_rate(rate: float, seed: int) -> None:
    """Of the images that the thresholds were taken from no greater share than asked for is called novel."""
    training, held_out = cone(400, seed), cone(600, seed + 1000)
    table = calibrated(training, held_out, rate)
    near = np.concatenate([nearest(held_out, training), novelty.nearest_other(training)])
    told = novelty.judge(table, novelty.mean_direction(training), np.concatenate([held_out, training]), near)
    assert told.mean() <= rate
    assert told.mean() >= rate / 4 - 1 / len(told), "and not much less"


def test_what_lies_near_one_training_image_only_can_be_novel() -> None:
    """A picture of hardly anything, near the one training image that is alike, is far from the middle."""
    training, held_out = cone(2000, 1), cone(2000, 2)
    blank = np.zeros((1, 32), np.float32)
    blank[0, 3] = 1
    blank_like = unit_half(blank + 0.05 * np.random.default_rng(0).normal(size=(1, 32)))
    training = np.concatenate([training, blank])
    table, middle = calibrated(training, held_out), novelty.mean_direction(training)
    near = nearest(blank_like, training)
    assert near > 0.9
    assert novelty.judge(table, middle, blank_like, near).all()
    assert not novelty.judge({"threshold": table["threshold"]}, None, blank_like, near).any()


def test_embeddings_without_a_middle_are_judged_by_the_nearest_alone() -> None:
    """Training rows that cancel out have no middle; nothing is novel for being far from it."""
    rows = np.concatenate([np.eye(8), -np.eye(8)]).astype(np.float32)
    middle = novelty.mean_direction(rows)
    assert not middle.any()
    table = calibrated(rows, rows[:0])
    assert not novelty.judge(table, middle, rows, np.ones(len(rows), np.float32)).any()


def test_a_higher_rate_finds_more() -> None:
    """A model can be told to be less careful; what is found at a low rate is found at a high one."""
    rows, _ = fitted.grouped()
    others, _ = fitted.grouped(seed=4)
    few, many = (
        fit(rows, parameters=fitted.SMALL, seed=1, novel_rate=rate, thumbnails=False).model
        for rate in (0.001, 0.05)
    )
    assert (few.parameters["novelty"]["rate"], many.parameters["novelty"]["rate"]) == (0.001, 0.05)
    one, two = few.predict(others), many.predict(others)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert not (one.novel & ~two.novel).any()
    assert two.novel.sum() > one.novel.sum()


@pytest.mark.parametrize("rate", [-0.1, 0.3, float("nan")])
def test_rates_that_make_no_sense_are_refused(rate: float) -> None:
    """A share outside 0..0.2 is refused before the fit, by name."""
    rows, _ = fitted.grouped()
    with pytest.raises(FitError, match=r"novel_rate must be 0 to 0\.2"):
        fit(rows, parameters=fitted.SMALL, novel_rate=rate)
    umap_model, hdbscan_model, _ = fitted.fitted_pair()
    with pytest.raises(FitError, match="novel_rate"):
        ClusterModel.from_fitted(umap_model, hdbscan_model, novel_rate=rate)


def test_a_threshold_given_by_hand_is_the_only_one() -> None:
    """`from_fitted(novelty=…)` judges by the nearest alone, as its text says."""
    model = ClusterModel.from_fitted(*fitted.fitted_pair()[:2], novelty=0.4)
    assert model.parameters["novelty"] == {"threshold": 0.4}
    rows = unit_half(np.random.default_rng(3).normal(size=(50, fitted.DIM)))
    said = model.predict(rows)
    np.testing.assert_array_equal(said.novel, said.similarities < 0.4)


def test_a_model_that_lost_its_middle_is_refused() -> None:
    """A table that judges by the middle, without the middle, is a damaged model and no answer."""
    model = fitted.fitted().model
    arrays = {name: array for name, array in model.arrays.items() if name != "middle"}
    with pytest.raises(ModelError, match="middle"):
        FrozenPredictor(arrays, model.parameters)
    long = {**model.arrays, "middle": np.full(model.dim, 9, np.float16)}
    with pytest.raises(ModelError, match="middle"):
        FrozenPredictor(long, model.parameters)


def test_models_from_before_the_middle_was_judged_go_on() -> None:
    """Without it in arrays and table, labels are the same and novel is what is far from the nearest."""
    model = fitted.fitted().model
    threshold = model.parameters["novelty"]["threshold"]
    older = dataclasses.replace(
        model,
        arrays={name: array for name, array in model.arrays.items() if name != "middle"},
        parameters={**model.parameters, "novelty": {"threshold": threshold}},
    )
    rows = unit_half(np.random.default_rng(3).normal(size=(50, fitted.DIM)))
    one, two = model.predict(rows), older.predict(rows)
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_array_equal(two.novel, two.similarities < threshold)
