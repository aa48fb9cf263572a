"""A predictor on a GPU, taken only where it answers as the processor does, bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from imgclust.errors import ModelError
from imgclust.predictor.batches import predict_batches
from imgclust.predictor.predictor import FrozenPredictor
from imgclust.predictor.prepare import Arrays
from imgclust.types import Floats, Prediction, Predictor

BATCHES = (1, 2, 17, 64, 256)  # a GPU chooses kernels, and orders of summation, by them
_PAIRS = 64  # of training images; on the way from one to the other lies what belongs to none


def predictor_on(
    device: str, arrays: Arrays, params: Mapping[str, Mapping[str, Any]], batches: Sequence[int] = BATCHES
) -> FrozenPredictor:
    """A predictor on a device that was compared with the one on the processor.

    Args:
        device: as for `FrozenPredictor`.

    Raises:
        ModelError: it gives other bits, or cannot be had there.
    """
    processor = FrozenPredictor(arrays, params)
    try:
        found = FrozenPredictor(arrays, params, device=device)
        check(found, processor, probes(arrays["embeddings"]), device, batches)
    except (RuntimeError, AssertionError) as error:  # the latter is what a torch without CUDA raises
        raise ModelError(
            f"the predictor cannot run on {device} ({type(error).__name__}: {ascii(str(error))[:200]}); "
            "run it on the CPU (WORKER_PREDICT_DEVICE=cpu)"
        ) from None
    return found


def probes(embeddings: Any) -> Floats:
    """Rows that take every path: training images, what lies between two of them, and what is far from all.

    Args:
        embeddings: float16 (n, D), of a model.

    Returns:
        float32 (m, D): unit-norm rows of float16 values.
    """
    random = np.random.default_rng(0)
    one, other = random.integers(len(embeddings), size=(2, _PAIRS))
    share = np.linspace(0, 1, 5)[:, None, None]
    between = (1 - share) * embeddings[one].astype(np.float64) + share * embeddings[other].astype(np.float64)
    anywhere = random.normal(size=(_PAIRS, embeddings.shape[1]))
    rows = np.concatenate([between.reshape(-1, embeddings.shape[1]), anywhere])
    lengths = np.sqrt((rows * rows).sum(1, keepdims=True))
    found: Floats = (rows / np.maximum(lengths, 1e-9)).astype(np.float16).astype(np.float32)
    some: Floats = found[(found != 0).any(1)]
    return some


def check(
    found: Predictor, expected: Predictor, rows: Floats, device: str, batches: Sequence[int] = BATCHES
) -> None:
    """Compare two predictors.

    Raises:
        ModelError: some number differs in some bit; how many rows, of which field, in which batches.
    """
    wanted = predict_batches(expected, rows)
    for batch in batches:
        some = rows[: 2 * batch + 1] if batch < 16 else rows
        differing = list(_differences(predict_batches(found, some, batch=batch), wanted))
        if differing:
            raise ModelError(
                f"the predictor on {device} gives other bits than on the CPU ({', '.join(differing)} "
                f"of {len(some)} rows, in batches of {batch}): an image's cluster would depend on where it "
                "was predicted; run it on the CPU (WORKER_PREDICT_DEVICE=cpu)"
            )


def _differences(got: Prediction, wanted: Prediction) -> Iterator[str]:
    for field in dataclasses.fields(Prediction):
        mine, theirs = getattr(got, field.name), getattr(wanted, field.name)[: len(got)]
        differs = mine.view(np.uint8).reshape(len(got), -1) != theirs.view(np.uint8).reshape(len(got), -1)
        if differs.any():
            yield f"{field.name} in {int(differs.any(1).sum())}"
