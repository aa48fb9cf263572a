"""The code for GPUs, run on the processor: only the hardware is left untested."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from imgclust.predictor.predictor import FrozenPredictor
from imgclust.types import Prediction
from tests.support.frozen_pair import embeddings, frozen_pair


@pytest.mark.parametrize(
    "umap",
    [
        {},
        {"metric": "cosine", "n_neighbors": 15},
        {"repulsion_strength": 2.0, "negative_sample_rate": 15},
        {"local_connectivity": 2.5, "n_epochs": 300, "learning_rate": 0.5},
    ],
)
def test_torch_gives_the_same_answers(umap: dict[str, object]) -> None:
    """On a processor the torch code and the numpy code agree bit for bit, unsettled points included."""
    arrays, params = frozen_pair(n=500, seed=3, **umap)
    rows = embeddings(300, 24, 5, seed=3)[0]
    cpu, device = FrozenPredictor(arrays, params), FrozenPredictor(arrays, params, device="torch-cpu")
    expected, got = cpu.predict(rows), device.predict(rows)
    for field in dataclasses.fields(Prediction):
        assert getattr(got, field.name).tobytes() == getattr(expected, field.name).tobytes(), field.name
    assert device.unsettled == cpu.unsettled
    assert np.unique(expected.labels).size > 2


def test_mps_predicts_on_the_processor() -> None:
    """A device without float64 does not fail: the encoder may be on it, the predictor is not."""
    arrays, params = frozen_pair(n=300)
    rows = embeddings(5, 24, 5, seed=0)[0]
    expected = FrozenPredictor(arrays, params).predict(rows)
    assert (
        FrozenPredictor(arrays, params, device="mps").predict(rows).labels.tolist()
        == expected.labels.tolist()
    )
