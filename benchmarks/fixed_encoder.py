"""Stand-ins that take the place of a GPU and of the predictor, the same for the worker and the naive loop."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from imgclust.embedding.network import unit
from imgclust.types import MAX_CANDIDATES, EncoderIdentity, Floats, Pixels, Prediction

CALL_SECONDS, CALL_IMAGES = 0.020, 64


class FixedTimeEncoder:
    """Takes 20 ms for each call of up to 64 images, and no processor: a GPU, as the worker sees it.

    Its embeddings lie between pairs of a model's own, so that they cost the predictor what real ones cost;
    which pair is told by the pixels.

    Args:
        identity: of the encoder whose place it takes.
        embeddings: (n, dim), unit-norm, of that encoder.
    """

    def __init__(self, identity: EncoderIdentity, embeddings: Floats, seconds: float = CALL_SECONDS) -> None:
        self.identity = identity
        self._seconds = seconds
        random = np.random.default_rng(0)
        rows = embeddings.astype(np.float32)
        others = rows[random.permutation(len(rows))]
        self._embeddings = unit(0.9 * rows + 0.1 * others).astype(np.float16).astype(np.float32)

    def encode(self, pixels: Pixels) -> Floats:
        """See `imgclust.types.Encoder.encode`."""
        time.sleep(self._seconds * -(-len(pixels) // CALL_IMAGES))
        which = pixels[:, ::16, ::16].sum(axis=(1, 2, 3), dtype=np.int64) % len(self._embeddings)
        chosen: Floats = self._embeddings[which]
        return chosen


class Unpredicted:
    """A model that says "other" of everything at once: what is left of the worker without prediction."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, embeddings: Floats) -> Prediction:
        n = len(embeddings)
        return Prediction(
            labels=np.full(n, -1, np.int32),
            probabilities=np.zeros(n, np.float32),
            points=np.zeros((n, 2), np.float32),
            novel=np.zeros(n, np.bool_),
            candidates=np.full((n, MAX_CANDIDATES), -1, np.int32),
            scores=np.zeros((n, MAX_CANDIDATES), np.float32),
            similarities=np.ones(n, np.float32),
            assigned=np.zeros(n, np.bool_),
        )
