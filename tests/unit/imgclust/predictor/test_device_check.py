"""imgclust.predictor.device_check: a device that answers otherwise than the processor is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from imgclust.errors import ModelError
from imgclust.predictor.device_check import check, predictor_on, probes
from imgclust.predictor.predictor import FrozenPredictor
from imgclust.types import Floats, Prediction
from tests.support.frozen_pair import frozen_pair

ARRAYS, PARAMS = frozen_pair(n=300)


def test_the_same_bits_are_accepted() -> None:
    """The code for GPUs, on the processor."""
    found = predictor_on("torch-cpu", ARRAYS, PARAMS, batches=(1, 64))
    rows = probes(ARRAYS["embeddings"])[:20]
    assert np.array_equal(
        found.predict(rows).points, FrozenPredictor(ARRAYS, PARAMS, device="cpu").predict(rows).points
    )


def test_probes_are_embeddings_of_all_kinds() -> None:
    """Unit-norm rows of float16 values: in clusters, between them, and unlike all that was seen."""
    rows = probes(ARRAYS["embeddings"])
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 2e-3
    assert np.array_equal(rows.astype(np.float16).astype(np.float32), rows)
    found = FrozenPredictor(ARRAYS, PARAMS).predict(rows)
    assert len(np.unique(found.labels)) > 2
    assert found.similarities.min() < 0.8 < found.similarities.max()


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Prediction)])
def test_a_single_bit_is_found(field: str) -> None:
    """Of any field, in any batch size, in one row; the text says which and where."""
    predictor = FrozenPredictor(ARRAYS, PARAMS)

    class Off:
        def predict(self, embeddings: Floats) -> Prediction:
            found = predictor.predict(embeddings)
            if len(embeddings) < 17:
                return found
            changed = getattr(found, field).copy()
            changed.reshape(len(changed), -1).view(np.uint8)[3, 0] ^= 1
            return dataclasses.replace(found, **{field: changed})

    rows = probes(ARRAYS["embeddings"])[:40]
    with pytest.raises(
        ModelError, match=rf"cuda:1 gives other bits.*\({field} in 2 of 40 rows, in batches of 17"
    ):
        check(Off(), predictor, rows, "cuda:1", batches=(1, 17))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused() -> None:
    """With what to do."""
    with pytest.raises(ModelError, match=r"cannot run on cuda:1 .*WORKER_PREDICT_DEVICE=cpu"):
        predictor_on("cuda:1", ARRAYS, PARAMS)
