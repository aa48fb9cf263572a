"""The worker under test: the real `imgclust-worker`, with an encoder and a model that know colours.

    python -m tests.faults.subject run            settings from WORKER_…, as always
    FAULTS_SABOTAGE=NAME             with one promise broken: the checker must notice (sabotage.py)

Nothing of the worker is replaced but the model that it loads, and its fetchers are forked: what is under test
is all the rest.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

from imgclust.model.parts import Cluster
from imgclust.types import Encoder, EncoderIdentity, Floats, Pixels, Prediction, Preprocessing
from tests.support import forked_fetchers
from worker.tagger.prediction import Model

CLASSES = 16
SECONDS = 0.004  # of one batch


class ColourEncoder:
    """Sees the colour of a picture, see `server.grey_of`."""

    identity = EncoderIdentity("colours", "none", "0" * 64, Preprocessing(8, 8), "float32", CLASSES)

    def encode(self, pixels: Pixels) -> Floats:
        time.sleep(SECONDS)
        grey = pixels.mean(axis=(1, 2, 3))
        which = np.clip(np.rint((grey - 8) / 15), 0, CLASSES - 1).astype(int)
        return np.eye(CLASSES, dtype=np.float32)[which]


class ColourModel:
    """One cluster for each colour."""

    version = "colours00000"
    taxonomy = "colours00000"
    encoder = ColourEncoder.identity
    clusters = tuple(Cluster(i, f"colour {i}", size=0) for i in range(CLASSES))

    def predict(self, embeddings: Floats) -> Prediction:
        labels = embeddings.argmax(axis=1).astype(np.int32)
        n = len(labels)
        candidates = np.full((n, 3), -1, np.int32)
        candidates[:, 0] = labels
        ones, zeros = np.ones(n, np.float32), np.zeros((n, 3), np.float32)
        no = np.zeros(n, np.bool_)
        return Prediction(labels, ones, zeros, no, candidates, zeros, ones, no)


def main() -> int:
    import worker.run
    from worker.__main__ import main as worker_main

    def load(*_: Any, **__: Any) -> tuple[Model, Encoder]:
        return ColourModel(), ColourEncoder()

    worker.run.load = load  # type: ignore[assignment]
    forked_fetchers.use(os.environ[forked_fetchers.FORKING])
    name = os.environ.get("FAULTS_SABOTAGE")
    if name:
        from tests.faults.sabotage import SABOTAGES

        SABOTAGES[name]()
    return worker_main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
