"""One picture, one vector: whoever embeds it, and in whatever company."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from imgclust.embedding.embed import embed
from imgclust.embedding.store import read_embeddings
from imgclust.embedding.torch_encoder import TorchEncoder
from imgclust.images.decode import decode
from imgclust.types import Floats, Pixels, Prediction
from tests.support.fake_encoder import FakeModel
from worker.messages.embedding import HALF
from worker.tagger.inference import Inference
from worker.tagger.prediction import InferenceOutcome, Predicted, Ready
from worker.telemetry.metrics import Metrics


class Nothing(FakeModel):
    """Calls everything "other"."""

    def predict(self, embeddings: Floats) -> Prediction:
        return super().predict(np.full((len(embeddings), 2), -1, np.float32))


def in_the_worker(encoder: TorchEncoder, pictures: list[Pixels], max_batch: int) -> Floats:
    """The embeddings that a worker keeps of these pictures."""
    outcomes: list[InferenceOutcome] = []
    inference = Inference(
        encoder, Nothing(), pixels=pictures.__getitem__, release=lambda _: None,
        on_outcomes=outcomes.extend, on_broken=lambda error: outcomes.extend([]), max_batch=max_batch,
        max_wait=0.0, clock=time.monotonic, metrics=Metrics(), keep_embeddings=True,
    )  # fmt: skip
    inference.start()
    inference.put([Ready(token, token) for token in range(len(pictures))])
    deadline = time.monotonic() + 120
    while len(outcomes) < len(pictures):
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.01)
    inference.stop()
    kept = {o.token: o.embedding for o in outcomes if isinstance(o, Predicted)}
    return np.stack([np.frombuffer(kept[i] or b"", HALF) for i in range(len(pictures))]).astype(np.float32)


@pytest.mark.parametrize("max_batch", [1, 64])
def test_worker_and_library(mini: TorchEncoder, clipart: Path, tmp_path: Path, max_batch: int) -> None:
    """What `imgclust embed` stores, what a worker publishes (and `retag` reads again) and what `imgclust
    predict` encodes of the same files is equal to the last bit."""
    files = sorted(clipart.glob("*/*.jpg"))[::200][:5]
    preprocessing = mini.identity.preprocessing
    pictures = [decode(file.read_bytes(), preprocessing).pixels for file in files]
    embed([str(file) for file in files], tmp_path / "out", mini, batch=3, progress=False)
    stored = read_embeddings(tmp_path / "out").vectors.astype(np.float32)
    assert in_the_worker(mini, pictures, max_batch).tobytes() == stored.tobytes()
    assert mini.encode(np.stack(pictures)[::-1])[::-1].tobytes() == stored.tobytes()
