"""Stands where an `Encoder` and a model stand, without torch. Proven by tests/contracts/test_encoder.py.

The embedding says how bright the picture is, and `FakeModel` reads it back: cluster = brightness.
"""

from __future__ import annotations

import numpy as np

from imgclust.types import EncoderIdentity, Floats, Ints, Pixels, Prediction, Preprocessing

SIDE = 8
IDENTITY = EncoderIdentity("test", "test", "0" * 64, Preprocessing(SIDE, SIDE), "float32", 2)


class FakeEncoder:
    """Two dimensions: the angle is the brightness.

    Args:
        bad: pictures of this brightness make it fail.
        max_batch: more pictures at once are out of memory.
        broken: every call fails.

    Attributes:
        batches: how many pictures each call had.
    """

    def __init__(
        self,
        identity: EncoderIdentity = IDENTITY,
        *,
        bad: frozenset[int] = frozenset(),
        max_batch: int = 1000,
        broken: bool = False,
    ) -> None:
        self.identity = identity
        self.bad, self.max_batch, self.broken = bad, max_batch, broken
        self.batches: list[int] = []

    def encode(self, pixels: Pixels) -> Floats:
        self.batches.append(len(pixels))
        if self.broken:
            raise RuntimeError("device lost")
        if len(pixels) > self.max_batch:
            raise MemoryError("out of memory")
        brightness = pixels.mean(axis=(1, 2, 3), dtype=np.float64)
        if self.bad & set(np.rint(brightness).astype(int).tolist()):
            raise ValueError("cannot be encoded")
        angle = brightness * (np.pi / 2 / 255)
        return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float16).astype(np.float32)


def brightness_of(embeddings: Floats) -> Ints:
    """int32 (n,); what `FakeEncoder` has seen."""
    angle = np.arctan2(embeddings[:, 1], embeddings[:, 0])
    return np.rint(angle * (255 * 2 / np.pi)).astype(np.int32)


class FakeModel:
    """Fails for pictures whose brightness is in `bad`; those of 3 are novel."""

    version = taxonomy = "0123456789ab"
    clusters: tuple[object, ...] = ()

    def __init__(self, bad: frozenset[int] = frozenset()) -> None:
        self.bad = bad

    def predict(self, embeddings: Floats) -> Prediction:
        labels = brightness_of(embeddings)
        if self.bad & set(labels.tolist()):
            raise ValueError("cannot be predicted")
        n = len(labels)
        candidates = np.stack([labels, np.full(n, 7), np.full(n, -1)], axis=1).astype(np.int32)
        scores = np.tile(np.array([0.5, 0.25, 0.0], np.float32), (n, 1))
        half = np.full(n, 0.5, np.float32)
        points = np.zeros((n, 2), np.float32)
        return Prediction(
            labels, half, points, labels == 3, candidates, scores, half, np.zeros(len(labels), bool)
        )
