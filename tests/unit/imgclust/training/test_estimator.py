"""The estimator: scikit-learn's own checks, and what a frozen model promises beyond them."""

from __future__ import annotations

import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import estimator_checks_generator

from imgclust.errors import EmbeddingsError, FitError
from imgclust.training.estimator import ImageClusterer
from tests.support.fitted import SMALL, grouped


@cache
def fitted() -> ImageClusterer:
    return ImageClusterer(parameters=SMALL).fit(3 * grouped()[0])


def name(check: Any) -> str:
    return getattr(getattr(check, "func", check), "__name__", "?")


CHECKS = [
    check
    for _, check in estimator_checks_generator(ImageClusterer(), mark=None)
    if name(check) not in ("check_dtype_object", "check_array_api_input")  # a long fit; needs a variable set
]


@pytest.mark.parametrize("check", CHECKS, ids=name)
@pytest.mark.filterwarnings("ignore")
def test_checks_of_scikit_learn(check: Any) -> None:
    """Each passes, or ends where its made-up data is too small to cluster: then the refusal says so."""
    try:
        check(ImageClusterer())
    except (FitError, AssertionError) as error:
        cause = error if isinstance(error, FitError) else error.__cause__ or error.__context__
        assert isinstance(cause, FitError), error
        assert "too few to cluster: give at least" in str(cause)


def test_finds_the_groups() -> None:
    """Rows of any length are clustered by their direction; predictions agree with the fit."""
    rows, group = grouped()
    found = fitted()
    assert adjusted_rand_score(group, found.labels_) > 0.8
    assert (found.predict(rows) == found.labels_).mean() > 0.9
    assert np.array_equal(found.fit_predict(3 * rows), found.labels_)
    assert found.n_features_in_ == rows.shape[1]


def test_a_row_is_predicted_alone() -> None:
    """Neither the order nor the other rows matter: checks that scikit-learn has on smaller data."""
    rows = grouped(5)[0][:40]
    labels = fitted().predict(rows)
    assert np.array_equal(fitted().predict(rows[::-1])[::-1], labels)
    assert np.array_equal(np.concatenate([fitted().predict(row[None]) for row in rows]), labels)


def test_copies_and_pipelines() -> None:
    """A pickled estimator predicts the same; a clone is not fitted; a pipeline takes it as its last step,
    with as many clusters as are wanted."""
    rows = grouped(5)[0][:40]
    labels = fitted().predict(rows)
    assert np.array_equal(pickle.loads(pickle.dumps(fitted())).predict(rows), labels)
    assert not hasattr(clone(fitted()), "model_")
    steps = make_pipeline(Normalizer(), ImageClusterer(parameters=SMALL, clusters=4, normalize=False))
    assert len(set(steps.fit_predict(grouped()[0]).tolist()) - {-1}) == 4


def test_rows_without_a_direction_are_named() -> None:
    rows = grouped()[0].copy()
    rows[17] = 0
    with pytest.raises(EmbeddingsError, match="row 17 is all zeros"):
        ImageClusterer().fit(rows)
    with pytest.raises(FitError, match="length 1: row 0"):
        ImageClusterer(normalize=False).fit(3 * grouped()[0])
