"""What everybody relies on in encoders and models: the same tests for the stand-ins and the real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.fixed_encoder import FixedTimeEncoder, Unpredicted
from imgclust.types import MAX_CANDIDATES, Encoder, Pixels
from tests.support import fitted
from tests.support.fake_encoder import FakeEncoder, FakeModel


@pytest.fixture(params=["fake", "fixed time", "mini"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    if request.param == "mini":
        found: Encoder = request.getfixturevalue("mini")
        return found
    if request.param == "fake":
        return FakeEncoder()
    rows, _ = fitted.grouped()
    return FixedTimeEncoder(fitted.ENCODER, rows, seconds=0.0)


def pictures(encoder: Encoder, count: int) -> Pixels:
    side = encoder.identity.preprocessing.size
    random = np.random.default_rng(0)
    level = random.integers(0, 256, (count, 1, 1, 1))
    noise = random.integers(-20, 20, (count, side, side, 3))
    return np.clip(level + noise, 0, 255).astype(np.uint8)


def test_rows_are_unit_vectors_of_float16_values(encoder: Encoder) -> None:
    """float32 (n, dim), one row for each picture, of length 1 within what rounding leaves."""
    rows = encoder.encode(pictures(encoder, 5))
    assert (rows.shape, rows.dtype) == ((5, encoder.identity.dim), np.float32)
    assert np.array_equal(rows, rows.astype(np.float16).astype(np.float32))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=2e-3)


def test_a_row_depends_on_its_picture_alone(encoder: Encoder) -> None:
    """The same bits wherever it stands in a batch, and whatever stands beside it."""
    pixels = pictures(encoder, 4)
    rows = encoder.encode(pixels)
    order = [2, 0, 3, 1]
    assert np.array_equal(encoder.encode(pixels[order]), rows[order])
    assert len(np.unique(rows, axis=0)) == 4


@pytest.fixture(params=["fake", "unpredicted", "fitted"])
def model(request: pytest.FixtureRequest) -> Any:
    real = fitted.fitted().model
    return {"fake": FakeModel(), "unpredicted": Unpredicted(real), "fitted": real}[request.param]


def test_a_prediction_has_the_shapes_that_are_promised(model: Any) -> None:
    """One row for each embedding, in the types of `Prediction`; candidates padded with -1, best first."""
    dim = fitted.DIM if not isinstance(model, FakeModel) else 2
    rows = np.eye(dim, dtype=np.float32)[[0, 1, 0]]
    found = model.predict(rows)
    assert len(found) == 3
    shapes = {
        "labels": (np.int32, (3,)), "probabilities": (np.float32, (3,)), "novel": (np.bool_, (3,)),
        "candidates": (np.int32, (3, MAX_CANDIDATES)), "scores": (np.float32, (3, MAX_CANDIDATES)),
        "similarities": (np.float32, (3,)),
    }  # fmt: skip
    for name, (kind, shape) in shapes.items():
        array = getattr(found, name)
        assert (array.dtype, array.shape) == (kind, shape), name
    assert (found.points.dtype, found.points.ndim, len(found.points)) == (np.float32, 2, 3)
    assert np.all(found.labels >= -1)
    assert np.all((found.probabilities >= 0) & (found.probabilities <= 1))
    assert np.all(np.diff(found.scores, axis=1) <= 0)
    assert np.all((found.candidates >= 0) | (found.scores == 0))
    assert found.labels[0] == found.labels[2]


def test_a_model_has_a_version_and_a_taxonomy(model: Any) -> None:
    """Twelve hexadecimal digits each, as tags carry them."""
    for name in (model.version, model.taxonomy):
        assert len(name) == 12
        assert int(name, 16) >= 0
